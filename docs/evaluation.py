"""What crops and ensembles give: run the missing measurements, store them, render the page. `make
bench-evaluation` calls this, `make docs` calls it with --render.

Four networks that differ in their seed alone are trained on the composites of docs/photos.md and evaluated by
every protocol. A measurement is a command and the stored keys of its JSON document. An interrupted training
continues, cached predictions are reused, and stored measurements are not repeated: to measure again, remove
the entry from evaluation.json.
"""

import json
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from convatlas.evaluation import predictions, protocols
from convatlas.evaluation.prediction_cache import cache_dir_for
from convatlas.evaluation.significance import Correctness, correctness, paired_comparison

GENERATED = Path(__file__).parent / "generated"
STORE = GENERATED / "evaluation.json"
PAGE = GENERATED / "evaluation.md"
PLOT = GENERATED / "evaluation.png"
PHOTOS = "runs/photos"
PHOTOS_COMMAND = f"python examples/photos.py {PHOTOS}"
IMAGES_PER_OBJECT = 15  # the default of examples/photos.py
SEEDS = (0, 1, 2, 3)
NETWORK = "resnet18 --set model.arguments.width=0.5 model.arguments.image_size=64"
CROPS = ("center", "10", "12", "144", "dense", "multiscale")
EVAL_KEYS = (
    "top1",
    "top5",
    "loss",
    "n",
    "models",
    "top1_interval",
    "ece",
    "crops",
    "versus_best",
    "subsets",
    "by_size",
)


def run_folder(seed: int) -> str:
    return f"runs/evaluation/resnet18-{seed}"


def train_command(seed: int) -> str:
    return (
        f"convatlas train {NETWORK} --data folder:{PHOTOS}/classes --epochs 12 --batch 64 --seed {seed} "
        f"--out {run_folder(seed)} --json"
    )


def eval_command(crops: str) -> str:
    return f"convatlas eval {' '.join(map(run_folder, SEEDS))} --crops {crops} --subsets --json"


def main() -> None:
    store: dict[str, Any] = json.loads(STORE.read_text()) if STORE.exists() else {}
    if "--render" not in sys.argv:
        measure_missing(store)
    if not all(eval_command(crops) in store for crops in ("center", "10", "144")):
        raise SystemExit("no measurements are stored: run make bench-evaluation")
    draw_ensembles(store).savefig(PLOT)
    PAGE.write_text(render(store))
    print(f"wrote {PAGE}")


def measure_missing(store: dict[str, Any]) -> None:
    commands = [*map(train_command, SEEDS), *map(eval_command, CROPS)]
    missing = [command for command in commands if command not in store]
    if missing and not (Path(PHOTOS) / "classes").exists():
        print(f"$ {PHOTOS_COMMAND}", flush=True)
        subprocess.run([sys.executable, *shlex.split(PHOTOS_COMMAND)[1:]], check=True)
    for number, command in enumerate(missing, 1):
        print(f"{number} of {len(missing)}  $ {command}", flush=True)
        store[command] = measure(command)
        STORE.write_text(json.dumps(store, indent=1, sort_keys=True) + "\n")


def measure(command: str) -> dict[str, Any]:
    start = time.perf_counter()
    process = subprocess.run(
        [sys.executable, "-m", *shlex.split(command)], stdout=subprocess.PIPE, check=True
    )
    document = json.loads(process.stdout)
    seconds = round(time.perf_counter() - start)
    if command.startswith("convatlas train"):
        environment = json.loads((Path(document["out"]) / "run.json").read_text())["environment"]
        metrics, run_id = document["metrics"], document["run_id"]
        return {"metrics": metrics, "run_id": run_id, "seconds": seconds, "environment": environment}
    measurement = {key: document[key] for key in EVAL_KEYS}
    measurement |= {"views": document["members"][0]["views"], "seconds": seconds}
    if document["crops"] != "center":
        comparisons = [compare_with_center_crop(Path(run_folder(seed)), document["crops"]) for seed in SEEDS]
        measurement["against_center"] = comparisons
    return measurement


def compare_with_center_crop(run: Path, crops: str) -> dict[str, Any]:
    """The paired comparison of one network's predictions by the centre crop and by `crops`, on the same
    images."""

    def test_correctness(crops: str) -> Correctness:
        path = next(cache_dir_for(run).glob(f"test-{crops}-????????.safetensors"))
        return correctness(predictions.read_predictions(path))

    return paired_comparison(test_correctness("center"), test_correctness(crops))


def draw_ensembles(store: dict[str, Any]) -> Figure:
    """Draw top-1 by the number of networks that are averaged, with a line for each protocol."""
    figure = Figure(figsize=(5.4, 3.3), layout="constrained", dpi=110)
    axis = figure.subplots()
    for i, crops in enumerate(CROPS):
        if eval_command(crops) in store:
            rows = store[eval_command(crops)]["by_size"]
            sizes = [row["size"] for row in rows]
            means = [row["top1_mean"] for row in rows]
            label = protocols.PROTOCOLS[crops].label
            axis.plot(sizes, means, color=f"C{i}", lw=1.4, marker="o", ms=3.5, label=label)
    axis.set(
        xlabel="networks averaged",
        ylabel="test top-1 %, mean of the subsets",
        xticks=range(1, len(SEEDS) + 1),
    )
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def render(store: dict[str, Any]) -> str:
    measurements = {crops: store[eval_command(crops)] for crops in CROPS if eval_command(crops) in store}
    environment = store[train_command(SEEDS[0])]["environment"]
    num_images = measurements["center"]["n"]
    any_seed = train_command(0).replace("--seed 0", "--seed SEED").replace("resnet18-0", "resnet18-SEED")
    sections = [
        "# What crops and ensembles give",
        "Generated by `make bench-evaluation` (the measurements) and `make docs` (this page) from "
        "`evaluation.json`; do not edit.",
        f"{environment['threads']} threads of a CPU with {environment['units'].replace(' ', ', ')}; "
        f"torch {environment['torch']}.",
        "A ResNet-18 at half width on images of 64x64, four seeds, by the recipe `quick` for 12 epochs, on "
        "the composites of [photos.md](../photos.md), which support no claim about photographs.",
        f"{num_images} test images: intervals are 95 % and describe the variation over images like these, "
        f"not over seeds. The images show {num_images // IMAGES_PER_OBJECT} objects, {IMAGES_PER_OBJECT} "
        "times each, and images of one object are alike, so the intervals are too narrow for other objects.",
        "\n".join(protocol_table(measurements)),
        "Test top-1 in percent. One network: the mean of the four, and their standard deviation. Two and "
        "three: the mean of all subsets. Seconds: evaluating all four networks, including start-up and "
        "reading the images; every subset is computed from the cached predictions.",
        f"![Top-1 by the number of networks averaged, a line for each protocol]({PLOT.name})",
        "## Against the centre crop of the same network",
        "\n".join(center_crop_table(measurements)),
        "Points of top-1 on the same images, 95 % interval (Agresti & Min 2005) and McNemar's exact p, a "
        "column for each seed.",
        "## The ensemble of four, against its best member",
        "\n".join(best_member_table(measurements)),
        "The best member was chosen on the same test images, which favours it.",
        "Measured by",
        "\n".join(f"    {command}" for command in (PHOTOS_COMMAND, any_seed, eval_command("144"))),
    ]
    return "\n\n".join(sections) + "\n"


def protocol_table(measurements: dict[str, Any]) -> Sequence[str]:
    rows = [
        "| | views | one network | spread (sd) | two | three | four | 95 % interval "
        "| calibration error, four | seconds |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for crops, measurement in measurements.items():
        single_top1s = [subset["top1"] for subset in measurement["subsets"] if len(subset["members"]) == 1]
        low, high = measurement["top1_interval"]
        means = [f"{row['top1_mean']:.2f}" for row in measurement["by_size"]]
        cells = (
            protocols.PROTOCOLS[crops].label,
            f"{measurement['views']}",
            means[0],
            f"{statistics.stdev(single_top1s):.2f}",
            *means[1:4],
            f"{low:.2f} to {high:.2f}",
            f"{measurement['ece']:.2f}",
            f"{measurement['seconds']:,}",
        )
        rows.append(f"| {' | '.join(cells)} |")
    return rows


def center_crop_table(measurements: dict[str, Any]) -> Sequence[str]:
    seeds = " | ".join(f"seed {seed}" for seed in SEEDS)
    rows = [f"| | mean | {seeds} |", "|---|---:|" + "---:|" * len(SEEDS)]
    for crops, measurement in measurements.items():
        if "against_center" in measurement:
            comparisons = measurement["against_center"]
            mean = statistics.mean(comparison["difference"] for comparison in comparisons)
            cells = " | ".join(map(_format_comparison, comparisons))
            rows.append(f"| {protocols.PROTOCOLS[crops].label} | {mean:+.2f} | {cells} |")
    return rows


def best_member_table(measurements: dict[str, Any]) -> Sequence[str]:
    rows = ["| | points, 95 % interval, p |", "|---|---:|"]
    for crops, measurement in measurements.items():
        comparison = _format_comparison(measurement["versus_best"])
        rows.append(f"| {protocols.PROTOCOLS[crops].label} | {comparison} |")
    return rows


def _format_comparison(comparison: dict[str, Any]) -> str:
    low, high = comparison["interval"]
    p = f"p = {comparison['p']:.2g}" if comparison["p"] >= 0.001 else "p < 0.001"
    return f"{comparison['difference']:+.2f} ({low:.2f} to {high:.2f}; {p})"


if __name__ == "__main__":
    main()
