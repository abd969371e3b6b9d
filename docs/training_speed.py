"""Write docs/generated/training_speed.md: `convatlas bench train`, the time to reach an accuracy, and the
accuracy with bf16 and fp32 (make bench-train).

Measurements are stored in runs/speed one by one, so an interrupted call continues where it stopped.
"""

import json
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from convatlas.benchmark import training
from convatlas.benchmark.floor import describe_floor

PAGE = Path(__file__).parent / "generated" / "training_speed.md"
RUNS = Path("runs/speed")
STEP_BENCHMARKS = ("resnet20_cifar --batch 128 --compile", "resnet50 --batch 32", "inception_v3 --batch 16")
NUM_ROUNDS = 5
TARGET_TOP1 = 93.0  # % of the validation images of Fashion-MNIST
PLAIN_LOOP = "python docs/plain_loop.py resnet20_cifar --recipe quick --bf16"
OURS = (
    "convatlas train resnet20_cifar --data fashion-mnist --epochs 3.5 --set model.arguments.image_size=28 "
    """recipe.loss.label_smoothing=0.1 'recipe.augment=[{"type":"RandomHorizontalFlip"}]' --json"""
)
SEEDS = (0, 1, 2)
ONE_EPOCH = (
    "convatlas train resnet20_cifar --data fashion-mnist --epochs 1 --json --set model.arguments.width=0.5"
)


def main() -> None:
    RUNS.mkdir(parents=True, exist_ok=True)
    lines = [
        "# How fast a training step is",
        "",
        f"Made by `make bench-train`; do not edit. {' '.join((training.__doc__ or '').split())}",
        "",
    ]
    sections: list[Callable[[], list[str]]] = [partial(_step_section, options) for options in STEP_BENCHMARKS]
    for section in [*sections, _time_to_accuracy_section, _precision_section]:
        lines += section()
        PAGE.write_text("\n".join(lines).rstrip() + "\n")  # all measurements so far


def _step_section(options: str) -> list[str]:
    document = _measure(f"convatlas bench train {options} --rounds {NUM_ROUNDS} --json")
    floor = document.get("floor")  # of a document that has one
    lines = [
        f"## {document['model']}, batch {document['batch']}, {document['input']}",
        "",
        f"`convatlas bench train {options}`: {document['machine']}; medians of {NUM_ROUNDS} rounds; "
        f"baseline: {document['baseline']}. Largest matrix product measured: "
        f"{document['peak_flops'] / 1e12:.2f} TFLOP/s.",
        "",
        "| row | images/s | to baseline | to it with our allocator settings | peak MB "
        f"| % of the matrix product |{' % of the floor |' if floor else ''}",
        f"|---|---:|---:|---:|---:|---:|{'---:|' if floor else ''}",
    ]
    rows = {row["name"]: row for row in document["rows"]}
    for name, row in rows.items():
        speed = row["images_per_second"]
        cells = (
            name,
            f"{speed:,.1f}" if speed < 100 else f"{speed:,.0f}",
            f"{row['ratio']:.2f}",
            f"{row['ratio_tuned']:.2f}",
            f"{row['memory_bytes'] / 1e6:,.0f}",
            f"{row['share']:.0f}",
            *([f"{row['floor_share']:.0f}"] if floor else []),
        )
        lines.append(f"| {' | '.join(cells)} |")
    limit = rows["ours"]["images_per_second"] / rows["ours"]["share"] * 100
    ratios = [limit / rows[name]["images_per_second"] for name in ("baseline", "baseline-tuned")]
    return [
        *lines,
        "",
        "A step that only computed its multiply-adds, at the rate of that product, would process "
        f"{limit:,.1f} images a second: {ratios[0]:.1f} times the baseline, {ratios[1]:.1f} times it with "
        "our settings.",
        "",
        *(_floor_lines(document) if floor else []),
    ]


def _floor_lines(document: dict[str, Any]) -> list[str]:
    ours = next(row for row in document["rows"] if row["name"] == "ours")
    return [
        f"{describe_floor(document)} The convention is that of `benchmark/floor.py`. Ours takes "
        f"{100 / ours['floor_share']:.1f} times as long; it moves these bytes at "
        f"{ours['bandwidth_share']:.0f} % of that copy's rate.",
        "",
    ]


def _time_to_accuracy_section() -> list[str]:
    lines = [
        f"## Time to {TARGET_TOP1:g} % of Fashion-MNIST's validation images",
        "",
        "ResNet-20, from the start of the command to its end.",
        "",
        f"- plain loop: `{PLAIN_LOOP}`",
        f"- the same on 28x28 pixels: `{PLAIN_LOOP} --size 28`",
        f"- ours: `{OURS} --seed N`",
        "",
        "| | seconds | validation top-1 | test top-1 |",
        "|---|---:|---:|---:|",
    ]
    commands = {"plain loop": PLAIN_LOOP, "the same on 28x28 pixels": f"{PLAIN_LOOP} --size 28"}
    commands |= {f"ours, seed {seed}": _our_command(seed) for seed in SEEDS}
    seconds = []
    for name, command in commands.items():
        document = _measure(command)
        val, test = _val_and_test_top1(document)
        seconds.append(document["wall"])
        lines.append(f"| {name} | {document['wall']:.0f} | {val:.2f} | {test:.2f} |")
    ratios = [f"{statistics.median(seconds[2:]) / plain:.2f}" for plain in seconds[:2]]
    return [
        *lines,
        "",
        f"Ours takes {ratios[0]} and {ratios[1]} times as long as the plain loops. These train for six "
        "epochs by the recipe `quick`, on images padded to 32x32, as in the network's paper, or on 28x28. "
        "With images that are flipped but not shifted, and smoothed labels, fewer epochs are enough: these "
        "settings were chosen among a dozen by validation accuracy.",
        "",
    ]


def _precision_section() -> list[str]:
    lines = [
        "## bf16 and fp32",
        "",
        f"Test top-1 of seeds {SEEDS[0]} to {SEEDS[-1]}, by the last command above and by a short one:",
        "",
        f"`{ONE_EPOCH}`",
        "",
        "| | mean | lowest | highest |",
        "|---|---:|---:|---:|",
    ]
    commands = {
        "bf16": [_our_command(seed) for seed in SEEDS],
        "fp32 (`--set precision=fp32`)": [_our_command(seed, " --set precision=fp32") for seed in SEEDS],
        "short, bf16": [_one_epoch_command(seed, "bf16") for seed in SEEDS],
        "short, fp32": [_one_epoch_command(seed, "fp32") for seed in SEEDS],
    }
    for name, commands_by_seed in commands.items():
        top1s = [_val_and_test_top1(_measure(command))[1] for command in commands_by_seed]
        lines.append(f"| {name} | {statistics.mean(top1s):.2f} | {min(top1s):.2f} | {max(top1s):.2f} |")
    return lines


def _our_command(seed: int, options: str = "") -> str:
    folder = RUNS / f"quick{'-fp32' if options else ''}-{seed}"
    return f"{OURS}{options} --out {folder} --seed {seed}"


def _one_epoch_command(seed: int, precision: str) -> str:
    return f"{ONE_EPOCH} precision={precision} --seed {seed} --out {RUNS / f'{precision}-{seed}'}"


def _measure(command: str) -> dict[str, Any]:
    """The JSON document of a command, with its seconds as `wall`; the stored document where it was measured
    before."""
    file = RUNS / f"{''.join(c if c.isalnum() else '-' for c in command)}.json"
    if not file.exists():
        print(f"  {command}", file=sys.stderr, flush=True)
        program, *arguments = shlex.split(command)
        module = [] if program == "python" else ["-m", program]
        start = time.perf_counter()
        process = subprocess.run([sys.executable, *module, *arguments], check=True, stdout=subprocess.PIPE)
        document = json.loads(process.stdout)
        file.write_text(json.dumps(document | {"wall": time.perf_counter() - start}))
    stored: dict[str, Any] = json.loads(file.read_text())
    return stored


def _val_and_test_top1(document: dict[str, Any]) -> tuple[float, float]:
    metrics = document.get("metrics", document)
    return metrics["val_top1"], metrics["test_top1"]


if __name__ == "__main__":
    main()
