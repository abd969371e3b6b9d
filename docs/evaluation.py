"""What crops and ensembles give: run what is missing, store it, render the page. `make bench-evaluation` calls this, `make docs` with
--render.

Four networks that differ in their seed alone are trained on the composites of docs/photos.md and asked by every protocol. A measurement
is a command and what to keep of its JSON document. A training continues where it was interrupted, and answers that are kept are not asked
for again; what is stored is not run again: remove its entry from evaluation.json to measure anew.
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
from convatlas.evaluation.significance import correctness, paired_comparison

HERE = Path(__file__).parent / "generated"
STORE, PAGE, PICTURE = HERE / "evaluation.json", HERE / "evaluation.md", HERE / "evaluation.png"
PHOTOS = "runs/photos"
MAKE = f"python examples/photos.py {PHOTOS}"
PER_OBJECT = 15  # pictures, unless one says otherwise
SEEDS = (0, 1, 2, 3)
NETWORK = "resnet18 --set model.arguments.width=0.5 model.arguments.image_size=64"
CROPS = ("center", "10", "12", "144", "dense", "multiscale")


def folder(seed: int) -> str:
    return f"runs/evaluation/resnet18-{seed}"


def training(seed: int) -> str:
    return f"convatlas train {NETWORK} --data folder:{PHOTOS}/classes --epochs 12 --seed {seed} --out {folder(seed)} --json"


def evaluation(crops: str) -> str:
    return f"convatlas eval {' '.join(map(folder, SEEDS))} --crops {crops} --subsets --json"


def main() -> None:
    store: dict[str, Any] = json.loads(STORE.read_text()) if STORE.exists() else {}
    if "--render" not in sys.argv:
        missing = [command for command in (*map(training, SEEDS), *map(evaluation, CROPS)) if command not in store]
        if missing and not (Path(PHOTOS) / "classes").exists():
            print(f"$ {MAKE}", flush=True)
            subprocess.run([sys.executable, *shlex.split(MAKE)[1:]], check=True)
        for number, command in enumerate(missing, 1):
            print(f"{number} of {len(missing)}  $ {command}", flush=True)
            store[command] = run(command)
            STORE.write_text(json.dumps(store, indent=1, sort_keys=True) + "\n")
    if not all(evaluation(crops) in store for crops in ("center", "10", "144")):
        raise SystemExit("nothing is measured yet: make bench-evaluation")
    picture(store).savefig(PICTURE)
    PAGE.write_text(render(store))
    print(f"wrote {PAGE}")


def run(command: str) -> dict[str, Any]:
    began = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", *shlex.split(command)], stdout=subprocess.PIPE, check=True)
    document, seconds = json.loads(done.stdout), round(time.perf_counter() - began)
    if command.startswith("convatlas train"):
        environment = json.loads((Path(document["out"]) / "run.json").read_text())["environment"]
        return {"metrics": document["metrics"], "run_id": document["run_id"], "seconds": seconds, "environment": environment}
    keys = ("top1", "top5", "loss", "n", "models", "top1_interval", "ece", "crops", "against_best", "subsets", "by_size")
    kept = {key: document[key] for key in keys} | {"windows": document["members"][0]["windows"], "seconds": seconds}
    if document["crops"] != "center":
        kept["against_center"] = [against_center(Path(folder(seed)), document["crops"]) for seed in SEEDS]
    return kept


def against_center(run: Path, crops: str) -> dict[str, Any]:
    """One network seen through other windows, on the same images: what that changes, paired."""
    one, other = (
        correctness(predictions.read_predictions(next((run / "answers").glob(f"test-{name}-????????.safetensors"))))
        for name in ("center", crops)
    )
    return paired_comparison(one, other)


def picture(store: dict[str, Any]) -> Figure:
    """Top-1 by the number of networks that are averaged, a line a protocol."""
    figure = Figure(figsize=(5.4, 3.3), layout="constrained", dpi=110)
    axis = figure.subplots()
    for i, crops in enumerate(CROPS):
        if evaluation(crops) in store:
            rows = store[evaluation(crops)]["by_size"]
            sizes, means = [row["size"] for row in rows], [row["top1_mean"] for row in rows]
            axis.plot(sizes, means, color=f"C{i}", lw=1.4, marker="o", ms=3.5, label=protocols.PROTOCOLS[crops].label)
    axis.set(xlabel="networks averaged", ylabel="test top-1 %, mean of the subsets", xticks=range(1, len(SEEDS) + 1))
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def render(store: dict[str, Any]) -> str:
    found = {crops: store[evaluation(crops)] for crops in CROPS if evaluation(crops) in store}
    environment = store[training(SEEDS[0])]["environment"]
    n = found["center"]["n"]
    parts = [
        "# What crops and ensembles give",
        "Generated by `make bench-evaluation` (the measurements) and `make docs` (this page) from `evaluation.json`; do not edit.",
        f"{environment['threads']} threads of a CPU with {environment['units'].replace(' ', ', ')}; torch {environment['torch']}.",
        "A ResNet-18 at half width on images of 64x64, four seeds, by the recipe `quick` for 12 epochs, on the composites of "
        "[photos.md](../photos.md), which support no claim about photographs.",
        f"{n} test images: intervals are 95 % and tell of other images like these, not of other seeds. They show {n // PER_OBJECT} "
        f"objects, {PER_OBJECT} times each, and pictures of one object are alike, so the intervals are too narrow for other objects.",
        "\n".join(table(found)),
        "Test top-1 in percent. One network: the mean of the four, and their standard deviation. Two and three: the mean of all subsets. "
        "Seconds: of asking all four networks, with start and reading the images; every subset follows from what is kept.",
        f"![Top-1 by the number of networks averaged, a line a protocol]({PICTURE.name})",
        "## Against the centre crop of the same network",
        "\n".join(against(found)),
        "Points of top-1 on the same images, 95 % interval (Agresti & Min 2005) and McNemar's exact p, a column a seed.",
        "## The four together, against the best of them",
        "\n".join(ensembles(found)),
        "The best of the four was chosen on the same test images, which favours it.",
        "By",
        "\n".join(
            f"    {command}"
            for command in (MAKE, training(0).replace("--seed 0", "--seed SEED").replace("resnet18-0", "resnet18-SEED"), evaluation("144"))
        ),
    ]
    return "\n\n".join(parts) + "\n"


def table(found: dict[str, Any]) -> Sequence[str]:
    rows = [
        "| | windows | one network | spread (sd) | two | three | four | 95 % interval | calibration error, four | seconds |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for crops, one in found.items():
        alone = [subset["top1"] for subset in one["subsets"] if len(subset["members"]) == 1]
        means = [row["top1_mean"] for row in one["by_size"]]
        low, high = one["top1_interval"]
        rows.append(
            f"| {protocols.PROTOCOLS[crops].label} | {one['windows']} | {means[0]:.2f} | {statistics.stdev(alone):.2f} | {means[1]:.2f} | "
            f"{means[2]:.2f} | {means[3]:.2f} | {low:.2f} to {high:.2f} | {one['ece']:.2f} | {one['seconds']:,} |"
        )
    return rows


def against(found: dict[str, Any]) -> Sequence[str]:
    rows = [f"| | mean | {' | '.join(f'seed {seed}' for seed in SEEDS)} |", "|---|---:|" + "---:|" * len(SEEDS)]
    for crops, one in found.items():
        if "against_center" in one:
            mean = statistics.mean(each["difference"] for each in one["against_center"])
            rows.append(f"| {protocols.PROTOCOLS[crops].label} | {mean:+.2f} | {' | '.join(map(_difference, one['against_center']))} |")
    return rows


def ensembles(found: dict[str, Any]) -> Sequence[str]:
    rows = ["| | points, 95 % interval, p |", "|---|---:|"]
    return [*rows, *(f"| {protocols.PROTOCOLS[crops].label} | {_difference(one['against_best'])} |" for crops, one in found.items())]


def _difference(one: dict[str, Any]) -> str:
    low, high = one["interval"]
    p = f"p = {one['p']:.2g}" if one["p"] >= 0.001 else "p < 0.001"
    return f"{one['difference']:+.2f} ({low:.2f} to {high:.2f}; {p})"


if __name__ == "__main__":
    main()
