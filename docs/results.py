"""The long measurements: run what is missing, store it, render the page. `make results` calls this, `make docs` with --render.

A measurement is a command and what to keep of its JSON document. A training continues where it was interrupted; what is stored is not
run again: remove its entry from results.json to measure anew.
"""

import json
import shlex
import shutil
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from convatlas import models, recipes

HERE = Path(__file__).parent / "generated"
STORE = HERE / "results.json"
SEEDS = (0, 1, 2)

QUICK = ("lenet5", "resnet20_cifar")
SMALL = ("alexnet", "vgg11", "googlenet", "inception_v3", "resnet20_cifar", "mobilenet_v1", "shufflenet_v2")
# One network by every optimiser, at the papers' default rates where they print one
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "SGD": {"type": "SGD", "lr": 0.003},
    "momentum": {"type": "SGD", "lr": 0.003, "momentum": 0.9},
    "Nesterov": {"type": "SGD", "lr": 0.003, "momentum": 0.9, "nesterov": True},
    "AdaGrad": {"type": "AdaGrad", "lr": 0.01},
    "AdaDelta": {"type": "AdaDelta"},
    "RMSProp": {"type": "RMSProp", "lr": 0.001},
    "Adam": {"type": "Adam"},
    "Adamax": {"type": "Adamax"},
    "Nadam": {"type": "Nadam"},
    "AMSGrad": {"type": "AMSGrad"},
    "AdaBound": {"type": "AdaBound"},
}


def training(network: str, recipe: str, seed: int, data: str = "fashion-mnist", more: str = "", name: str = "") -> str:
    folder = f"runs/results/{name or f'{network}-{recipe}'}-{seed}"
    return f"convatlas train {network} --data {data} --recipe {recipe} --seed {seed}{more} --out {folder} --json"


def plain(network: str) -> str:
    return f"python docs/plain_loop.py {network}"


def by(optimizer: str) -> str:
    record = json.dumps(OPTIMIZERS[optimizer], separators=(",", ":"))
    more = f" --epochs 1 --set 'recipe.optimizer={record}' 'recipe.schedule={{\"type\":\"Constant\"}}' log_every=10"
    return training("lenet5", "lenet5_small", 0, more=more, name=f"optimizer-{optimizer.lower()}")


# Fine-tuning: digits, from the weights of the small ResNet-20 that was trained on garments, and from nothing
START = " --weights runs/results/resnet20_cifar-small-0"
TUNED = [training("resnet20_cifar", "finetune", seed, "digits", START, "tuned") for seed in SEEDS]
FRESH = [training("resnet20_cifar", "finetune", seed, "digits", " --set model.arguments.width=0.5", "fresh") for seed in SEEDS]


def commands() -> list[str]:
    return [
        *(training(network, "small", seed) for seed in SEEDS for network in SMALL),
        *map(plain, SMALL),
        *TUNED,
        *FRESH,
        *map(by, OPTIMIZERS),
        *(training(network, "quick", seed) for network in QUICK for seed in SEEDS),
    ]


def main() -> None:
    HERE.mkdir(exist_ok=True)
    store: dict[str, Any] = json.loads(STORE.read_text()) if STORE.exists() else {}
    if "--render" not in sys.argv:
        missing = [command for command in commands() if command not in store]
        for number, command in enumerate(missing, 1):
            print(f"{number} of {len(missing)}  $ {command}", flush=True)
            store[command] = run(command)
            STORE.write_text(json.dumps(store, indent=1, sort_keys=True) + "\n")
    pictures(store)
    (HERE / "results.md").write_text(render(store))
    print(f"wrote {HERE / 'results.md'}")


def run(command: str) -> Any:
    program, *words = shlex.split(command)
    started = [sys.executable, *words] if program == "python" else [sys.executable, "-m", program, *words]
    document = json.loads(subprocess.run(started, stdout=subprocess.PIPE, check=True).stdout)
    if not command.startswith("convatlas train"):
        return document
    folder = Path(document["out"])
    environment = json.loads((folder / "run.json").read_text())["environment"]
    seconds = sum(json.loads(line)["seconds"] for line in (folder / "timing.jsonl").read_text().splitlines())
    kept = {"metrics": document["metrics"], "run_id": document["run_id"], "seconds": round(seconds), "environment": environment}
    if "optimizer-" in command:
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        kept["curve"] = [(line["step"], round(line["loss"], 4)) for line in lines if line["split"] == "train"]
    return kept


def pictures(store: dict[str, Any]) -> None:
    """The pictures of one training for the README; the optimisers' curves."""
    for name in ("curves.png", "mistakes.png"):
        picture = Path("runs/results/resnet20_cifar-quick-0") / name
        if picture.exists():
            shutil.copyfile(picture, HERE / name)
    curves = {name: store[by(name)] for name in OPTIMIZERS if by(name) in store}
    if curves:
        figure = Figure(figsize=(8, 4), layout="constrained", dpi=110)
        axis = figure.subplots()
        for i, (name, found) in enumerate(sorted(curves.items(), key=lambda item: -item[1]["metrics"]["val_top1"])):
            steps, losses = zip(*found["curve"], strict=True)
            smooth = [statistics.mean(losses[max(0, at - 2) : at + 3]) for at in range(len(losses))]
            colour = f"C{i % 10}"
            axis.plot(
                steps, smooth, lw=1.4, ls="-" if i < 10 else "--", color=colour, label=f"{name}  {found['metrics']['val_top1']:.1f} %"
            )
        axis.set(xlabel="step", ylabel="training loss, mean over 50 steps", yscale="log")
        for ticks in (axis.yaxis.set_major_formatter, axis.yaxis.set_minor_formatter):
            ticks("{x:g}")
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(
            frameon=False, fontsize=8, title="validation top-1 after 1 epoch", title_fontsize=8, loc="upper left", bbox_to_anchor=(1, 1)
        )
        figure.savefig(HERE / "optimizers.png")


def render(store: dict[str, Any]) -> str:
    parts = ["# Measured", "Generated by `make results` (the measurements) and `make docs` (this page) from `results.json`; do not edit."]
    machine = next((one["environment"] for one in store.values() if "environment" in one), None)
    if machine:
        parts.append(f"{machine['threads']} threads of a CPU with {machine['units'].replace(' ', ', ')}; torch {machine['torch']}.")
    parts += small(store)
    parts += fine_tuning(store)
    if any(by(name) in store for name in OPTIMIZERS):
        parts.append(
            "## One network by every optimiser\n\nLeNet-5 on Fashion-MNIST, one epoch at a constant rate: the papers' default where they "
            "print one, no search.\n\n![Training loss by step, a curve an optimiser](optimizers.png)\n\nEach by a command such as\n\n    "
            + by("Adam")
        )
    parts += quick(store)
    return "\n\n".join(parts) + "\n"


def small(store: dict[str, Any]) -> list[str]:
    """The papers' small companions beside the same recipe in a plain loop."""
    rows = [
        "| network | epochs | test top-1 %, mean | spread (sd) | validation, mean | seconds | plain loop: test top-1 % | seconds |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for network in SMALL:
        found = [store[c] for seed in SEEDS if (c := training(network, "small", seed)) in store]
        beside = store.get(plain(network))
        if len(found) < 2:
            continue
        recipe = recipes.get_recipe("small", models.get_entry(network))
        assert isinstance(recipe.budget, recipes.Epochs)
        loop = f"{beside['test_top1']:.2f} | {beside['seconds']:,.0f}" if beside else "- | -"
        rows.append(f"| {network} | {recipe.budget.count:g} | {_scores(found)} | {loop} |")
    if len(rows) == 2:
        return []
    return [
        "## The recipes' small companions on Fashion-MNIST, three seeds",
        "\n".join(rows),
        "Seconds of training, without start, test and report; median. The plain loop is the same recipe on the same network, one "
        "seed: fp32, channels first, a DataLoader, torch's optimiser, no average of the weights (docs/plain_loop.py). By",
        "\n".join(f"    {command}" for command in (training("NETWORK", "small", 0), plain("NETWORK"))),
    ]


def fine_tuning(store: dict[str, Any]) -> list[str]:
    rows = [
        "| ResNet-20 at half width, on digits | test top-1 %, mean | spread (sd) | validation, mean | seconds |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, wanted in (("from the weights of one trained on Fashion-MNIST", TUNED), ("from nothing", FRESH)):
        found = [store[command] for command in wanted if command in store]
        if len(found) < 2:
            return []
        rows.append(f"| {name} | {_scores(found)} |")
    return ["## Fine-tuning, three seeds", "\n".join(rows), f"    {TUNED[0]}\n    {FRESH[0]}"]


def quick(store: dict[str, Any]) -> list[str]:
    rows = ["| network | test top-1 %, mean | spread (sd) | validation, mean | seconds |", "|---|---:|---:|---:|---:|"]
    for network in QUICK:
        found = [store[c] for seed in SEEDS if (c := training(network, "quick", seed)) in store]
        if len(found) >= 2:
            rows.append(f"| {network} | {_scores(found)} |")
    return [
        "## The recipe `quick` on Fashion-MNIST, three seeds",
        "\n".join(rows),
        "The test split is read once, after the last step; recipes were chosen on validation. By",
        f"    {training('NETWORK', 'quick', 0)}",
    ]


def _scores(found: Sequence[dict[str, Any]]) -> str:
    test, val = ([f["metrics"][key] for f in found] for key in ("test_top1", "val_top1"))
    seconds = statistics.median(f["seconds"] for f in found)
    return f"{statistics.mean(test):.2f} | {statistics.stdev(test):.2f} | {statistics.mean(val):.2f} | {seconds:,.0f}"


if __name__ == "__main__":
    main()
