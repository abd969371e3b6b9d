"""Write docs/generated/training_speed.md: `convatlas bench train`, time to an accuracy, and whether bf16 costs any (make bench-train).

What is measured is kept in runs/speed, piece by piece: an interrupted measurement goes on where it was.
"""

import json
import shlex
import statistics
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

from convatlas.benchmark import training

TARGET, KEPT = Path(__file__).parent / "generated" / "training_speed.md", Path("runs/speed")
STEPS = ("resnet20_cifar --batch 128 --compile", "resnet50 --batch 32", "inception_v3 --batch 16")
ROUNDS = 5
GOAL = 93.0  # % of the validation images of Fashion-MNIST
PLAIN = "python docs/plain_loop.py resnet20_cifar --recipe quick --bf16"
OURS = (
    "convatlas train resnet20_cifar --data fashion-mnist --epochs 3.5 --set model.arguments.image_size=28 "
    """recipe.loss.label_smoothing=0.1 'recipe.augment=[{"type":"Flip"}]' --json"""
)
SEEDS = (0, 1, 2)
SHORT = "convatlas train resnet20_cifar --data fashion-mnist --epochs 1 --json --set model.arguments.width=0.5"


def main() -> None:
    KEPT.mkdir(parents=True, exist_ok=True)
    lines = [
        "# How fast a training step is",
        "",
        f"Made by `make bench-train`; do not edit. {' '.join((training.__doc__ or '').split())}",
        "",
    ]
    for section in (*(partial(_steps, step) for step in STEPS), _time_to_goal, _precisions):
        lines += section()
        TARGET.write_text("\n".join(lines).rstrip() + "\n")  # what is measured so far


def _time_to_goal() -> list[str]:
    lines = [f"## Time to {GOAL:g} % of Fashion-MNIST's validation images", "", "ResNet-20, from the start of the command to its end.", ""]
    lines += [f"- plain loop: `{PLAIN}`", f"- the same on 28x28 pixels: `{PLAIN} --size 28`", f"- ours: `{OURS} --seed N`", ""]
    lines += ["| | seconds | validation top-1 | test top-1 |", "|---|---:|---:|---:|"]
    seconds = []
    for name, command in (
        ("plain loop", PLAIN),
        ("the same on 28x28 pixels", f"{PLAIN} --size 28"),
        *((f"ours, seed {seed}", _ours(seed)) for seed in SEEDS),
    ):
        found = _found(command)
        val, test = _accuracies(found)
        seconds.append(found["wall"])
        lines.append(f"| {name} | {found['wall']:.0f} | {val:.2f} | {test:.2f} |")
    shares = [f"{statistics.median(seconds[2:]) / other:.2f}" for other in seconds[:2]]
    lines += [
        "",
        f"Ours takes {shares[0]} and {shares[1]} of the plain loops' times. These go through the images six times by the recipe `quick`:",
        "padded to 32x32, as the network's paper has its images, or as they come. Images that are mirrored but not shifted, with smoothed",
        "labels, are learnt in fewer epochs: settings chosen, out of a dozen, by validation accuracy.",
        "",
    ]
    return lines


def _precisions() -> list[str]:
    lines = ["## bf16 and fp32", "", f"Test top-1 of seeds {SEEDS[0]} to {SEEDS[-1]}: the last command above, and a short one:", ""]
    lines += [f"`{SHORT}`", "", "| | mean | lowest | highest |", "|---|---:|---:|---:|"]
    for name, commands in (
        ("bf16", [_ours(seed) for seed in SEEDS]),
        ("fp32 (`--set precision=fp32`)", [_ours(seed, " --set precision=fp32") for seed in SEEDS]),
        *(
            (f"short, {p}", [f"{SHORT} precision={p} --seed {seed} --out {KEPT / f'{p}-{seed}'}" for seed in SEEDS])
            for p in ("bf16", "fp32")
        ),
    ):
        tops = [_accuracies(_found(command))[1] for command in commands]
        lines.append(f"| {name} | {statistics.mean(tops):.2f} | {min(tops):.2f} | {max(tops):.2f} |")
    return lines


def _ours(seed: int, change: str = "") -> str:
    folder = KEPT / f"quick{'-fp32' * bool(change)}-{seed}"
    return f"{OURS}{change} --out {folder} --seed {seed}"


def _found(command: str) -> dict[str, Any]:
    """What a command prints as JSON, with its seconds as `wall`; once measured, as it was then."""
    file = KEPT / f"{''.join(c if c.isalnum() else '-' for c in command)}.json"
    if not file.exists():
        print(f"  {command}", file=sys.stderr, flush=True)
        program, *words = shlex.split(command)
        start = [sys.executable, *words] if program == "python" else [sys.executable, "-m", program, *words]
        began = time.perf_counter()
        found = json.loads(subprocess.run(start, check=True, stdout=subprocess.PIPE).stdout)
        file.write_text(json.dumps(found | {"wall": time.perf_counter() - began}))
    read: dict[str, Any] = json.loads(file.read_text())
    return read


def _accuracies(found: dict[str, Any]) -> tuple[float, float]:
    """Of validation and test."""
    found = found.get("metrics", found)
    return found["val_top1"], found["test_top1"]


def _steps(words: str) -> list[str]:
    document = _found(f"convatlas bench train {words} --rounds {ROUNDS} --json")
    rows = {row["name"]: row for row in document["rows"]}
    lines = [
        f"## {document['model']}, batch {document['batch']}, {document['input']}",
        "",
        f"`convatlas bench train {words}`: {document['machine']}; medians of {ROUNDS} rounds; baseline: "
        f"{document['baseline']}. Largest matrix product measured: {document['peak_flops'] / 1e12:.2f} TFLOP/s.",
        "",
        "| row | images/s | to baseline | to it with our allocator settings | peak MB | % of the matrix product |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for row in rows.values():
        rate = f"{row['images_per_second']:,.1f}" if row["images_per_second"] < 100 else f"{row['images_per_second']:,.0f}"
        figures = f"{rate} | {row['ratio']:.2f} | {row['ratio_tuned']:.2f} | {row['memory_bytes'] / 1e6:,.0f} | {row['share']:.0f}"
        lines.append(f"| {row['name']} | {figures} |")
    ours = rows["ours"]
    ceiling = ours["images_per_second"] / ours["share"] * 100
    to = [ceiling / rows[name]["images_per_second"] for name in ("baseline", "baseline-tuned")]
    lines += [
        "",
        f"All multiply-adds at the rate of that product, and nothing else, would be {ceiling:,.1f} images a second: {to[0]:.1f} times the "
        f"baseline, {to[1]:.1f} times it with our settings.",
        "",
    ]
    return lines


if __name__ == "__main__":
    main()
