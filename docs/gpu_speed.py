"""Write docs/generated/gpu_speed.md: `convatlas bench` on a CUDA device, ResNet-50 and Inception-v3, beside
timm's (make bench-gpu).

Measurements are stored in gpu_speed.json one by one, so an interrupted call continues where it stopped.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

GENERATED = Path(__file__).parent / "generated"
PAGE = GENERATED / "gpu_speed.md"
STORE = GENERATED / "gpu_speed.json"
NUM_ROUNDS = 3
COMMANDS = tuple(
    f"convatlas bench {benchmark} --rounds {NUM_ROUNDS} --compile"
    for model in ("resnet50", "inception_v3")
    for benchmark in (f"train {model} --batch 128", f"inference {model}")
)
HEAD = """# On a GPU

Made by `make bench-gpu`; do not edit. Every row runs in a process of its own; medians of {num_rounds}
rounds, rows in turn. The rows are explained in [training_speed.md](training_speed.md) and
[inference_speed.md](inference_speed.md)."""


def main() -> int:
    store: dict[str, Any] = json.loads(STORE.read_text()) if STORE.exists() else {}
    for command in COMMANDS:
        if command in store:
            continue
        if not torch.cuda.is_available():
            print(f"{command}: skipped, there is no CUDA device", file=sys.stderr)
            continue
        arguments = [sys.executable, "-m", *command.split(), "--json"]
        store[command] = json.loads(subprocess.run(arguments, check=True, stdout=subprocess.PIPE).stdout)
        STORE.write_text(json.dumps(store, indent=1) + "\n")
    if not store:
        return 1
    lines = [HEAD.format(num_rounds=NUM_ROUNDS)]
    for command in COMMANDS:
        if command in store:
            lines += section(command, store[command])
    PAGE.write_text("\n".join(lines) + "\n")
    return 0


def section(command: str, document: dict[str, Any]) -> list[str]:
    """The document of one command as a table."""
    job = "a training step" if document["kind"] == "train" else "inference"
    lines = [
        "",
        f"## {document['model']}, {job}",
        "",
        f"`{command}`: {document['machine']}, torch {torch.__version__}; "
        f"batches of {document['batch']} images {document['input']}.",
        f"Largest matrix product measured: {document['peak_flops'] / 1e12:,.0f} TFLOP/s.",
        "",
        "| row | images/s | to baseline | to timm's, compiled | MB | % of the matrix product |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    speeds = {row["name"]: row["images_per_second"] for row in document["rows"]}
    for row in document["rows"]:
        _, _, condition = row["name"].partition(", ")
        timm_speed = speeds.get(f"timm-compiled, {condition}" if condition else "timm-compiled")
        cells = (
            row["name"],
            f"{row['images_per_second']:,.0f}",
            f"{row['ratio']:.2f}",
            f"{row['images_per_second'] / timm_speed:.2f}" if timm_speed else "-",
            f"{row['memory_bytes'] / 1e6:,.0f}",
            f"{row['share']:.1f}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return lines


if __name__ == "__main__":
    sys.exit(main())
