"""Write docs/generated/gpu_speed.md: `convatlas bench` on a CUDA device, ResNet-50 and Inception-v3, beside timm's (make bench-gpu).

What is measured is kept in gpu_speed.json, part by part: an interrupted measurement goes on where it was.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

FOLDER = Path(__file__).parent / "generated"
PAGE, KEPT = FOLDER / "gpu_speed.md", FOLDER / "gpu_speed.json"
ROUNDS = 3
PARTS = tuple(
    f"convatlas bench {what} --rounds {ROUNDS} --compile"
    for model in ("resnet50", "inception_v3")
    for what in (f"train {model} --batch 128", f"inference {model}")
)
HEAD = """# On a GPU

Made by `make bench-gpu`; do not edit. Every row runs in a process of its own; medians of {rounds} rounds, rows in turn. What the rows are:
[training_speed.md](training_speed.md), [inference_speed.md](inference_speed.md)."""


def main() -> int:
    found: dict[str, Any] = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    for command in PARTS:
        if command in found:
            continue
        if not torch.cuda.is_available():
            print(f"{command}: left out, there is no CUDA device", file=sys.stderr)
            continue
        words = [sys.executable, "-m", *command.split(), "--json"]
        found[command] = json.loads(subprocess.run(words, check=True, stdout=subprocess.PIPE).stdout)
        KEPT.write_text(json.dumps(found, indent=1) + "\n")
    if not found:
        return 1
    lines = [HEAD.format(rounds=ROUNDS), *(line for command in PARTS if command in found for line in section(command, found[command]))]
    PAGE.write_text("\n".join(lines) + "\n")
    return 0


def section(command: str, document: dict[str, Any]) -> list[str]:
    """What one command found, as a table."""
    lines = ["", f"## {document['model']}, {'a training step' if document['kind'] == 'train' else 'inference'}", ""]
    lines += [f"`{command}`: {document['machine']}, torch {torch.__version__}; batches of {document['batch']} images {document['input']}."]
    lines += [f"Largest matrix product measured: {document['peak_flops'] / 1e12:,.0f} TFLOP/s.", ""]
    lines += ["| row | images/s | to baseline | to timm's, compiled | MB | % of the matrix product |", "|---|---:|---:|---:|---:|---:|"]
    speeds = {row["name"]: row["images_per_second"] for row in document["rows"]}
    for row in document["rows"]:
        _, _, remark = row["name"].partition(", ")
        timm = speeds.get(f"timm-compiled, {remark}" if remark else "timm-compiled")
        ratio = f"{row['images_per_second'] / timm:.2f}" if timm else "-"
        figures = f"{row['images_per_second']:,.0f} | {row['ratio']:.2f} | {ratio} | {row['memory_bytes'] / 1e6:,.0f} | {row['share']:.1f}"
        lines.append(f"| {row['name']} | {figures} |")
    return lines


if __name__ == "__main__":
    sys.exit(main())
