"""The long measurements: run the missing ones, store them, render the page. `make results` calls this, `make
docs` calls it with --render.

A measurement is a command and the stored keys of its JSON document. An interrupted training continues, and
stored measurements are not repeated: to measure again, remove the entry from results.json.
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

GENERATED = Path(__file__).parent / "generated"
PAGE = GENERATED / "results.md"
STORE = GENERATED / "results.json"
RUNS = Path("runs/results")
SEEDS = (0, 1, 2)

QUICK_NETWORKS = ("lenet5", "resnet20_cifar")
SMALL_NETWORKS = (
    "alexnet",
    "vgg11",
    "googlenet",
    "inception_v3",
    "resnet20_cifar",
    "mobilenet_v1",
    "shufflenet_v2",
)
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
SMOOTHING_WINDOW = 5  # points of a loss curve, each the mean of 10 steps


def train_command(
    network: str, recipe: str, seed: int, data: str = "fashion-mnist", options: str = "", name: str = ""
) -> str:
    folder = RUNS / f"{name or f'{network}-{recipe}'}-{seed}"
    run = f"{network} --data {data} --recipe {recipe} --seed {seed}{options}"
    return f"convatlas train {run} --out {folder} --json"


def plain_loop_command(network: str) -> str:
    return f"python docs/plain_loop.py {network}"


def optimizer_command(optimizer: str) -> str:
    record = json.dumps(OPTIMIZERS[optimizer], separators=(",", ":"))
    schedule = '{"type":"Constant"}'
    options = f" --epochs 1 --set 'recipe.optimizer={record}' 'recipe.schedule={schedule}' log_every=10"
    name = f"optimizer-{optimizer.lower()}"
    return train_command("lenet5", "lenet5_small", 0, options=options, name=name)


def finetune_command(seed: int) -> str:
    """Fine-tuning on digits, from the weights of the small ResNet-20 that was trained on Fashion-MNIST."""
    options = f" --weights {RUNS}/resnet20_cifar-small-0"
    return train_command("resnet20_cifar", "finetune", seed, "digits", options, "tuned")


def from_scratch_command(seed: int) -> str:
    """The same network from random weights, by the recipe for those."""
    options = " --set model.arguments.width=0.5"
    return train_command("resnet20_cifar", "quick", seed, "digits", options, "fresh")


def all_commands() -> list[str]:
    return [
        *(train_command(network, "small", seed) for seed in SEEDS for network in SMALL_NETWORKS),
        *map(plain_loop_command, SMALL_NETWORKS),
        *map(finetune_command, SEEDS),
        *map(from_scratch_command, SEEDS),
        *map(optimizer_command, OPTIMIZERS),
        *(train_command(network, "quick", seed) for network in QUICK_NETWORKS for seed in SEEDS),
    ]


def main() -> None:
    GENERATED.mkdir(exist_ok=True)
    store: dict[str, Any] = json.loads(STORE.read_text()) if STORE.exists() else {}
    if "--render" not in sys.argv:
        missing = [command for command in all_commands() if command not in store]
        for number, command in enumerate(missing, 1):
            print(f"{number} of {len(missing)}  $ {command}", flush=True)
            store[command] = measure(command)
            STORE.write_text(json.dumps(store, indent=1, sort_keys=True) + "\n")
    copy_report_images()
    curves = {name: store[optimizer_command(name)] for name in OPTIMIZERS if optimizer_command(name) in store}
    if curves:
        plot_optimizers(curves).savefig(GENERATED / "optimizers.png")
    PAGE.write_text(render(store))
    print(f"wrote {PAGE}")


def measure(command: str) -> Any:
    program, *arguments = shlex.split(command)
    module = [] if program == "python" else ["-m", program]
    process = subprocess.run([sys.executable, *module, *arguments], stdout=subprocess.PIPE, check=True)
    document = json.loads(process.stdout)
    if not command.startswith("convatlas train"):
        return document
    folder = Path(document["out"])
    timing = [json.loads(line) for line in (folder / "timing.jsonl").read_text().splitlines()]
    measurement = {
        "metrics": document["metrics"],
        "run_id": document["run_id"],
        "seconds": round(sum(line["seconds"] for line in timing)),
        "environment": json.loads((folder / "run.json").read_text())["environment"],
    }
    if "optimizer-" in command:
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        train_lines = [line for line in lines if line.get("split") == "train"]
        measurement["curve"] = [(line["step"], round(line["loss"], 4)) for line in train_lines]
    return measurement


def describe_machine(environment: dict[str, Any]) -> str:
    threads = f"{environment['threads']} thread" + "s" * (environment["threads"] > 1)
    return f"{threads} of a CPU with {environment['units'].replace(' ', ', ')}; torch {environment['torch']}."


def copy_report_images() -> None:
    """Copy the images of one training's report, which the README shows."""
    for name in ("curves.png", "mistakes.png"):
        image = RUNS / "resnet20_cifar-quick-0" / name
        if image.exists():
            shutil.copyfile(image, GENERATED / name)


def plot_optimizers(curves: dict[str, Any]) -> Figure:
    figure = Figure(figsize=(8, 4), layout="constrained", dpi=110)
    axis = figure.subplots()
    best_first = sorted(curves.items(), key=lambda item: -item[1]["metrics"]["val_top1"])
    radius = SMOOTHING_WINDOW // 2
    for i, (name, measurement) in enumerate(best_first):
        steps, losses = zip(*measurement["curve"], strict=True)
        smoothed = [statistics.mean(losses[max(0, j - radius) : j + radius + 1]) for j in range(len(losses))]
        label = f"{name}  {measurement['metrics']['val_top1']:.1f} %"
        axis.plot(steps, smoothed, lw=1.4, ls="-" if i < 10 else "--", color=f"C{i % 10}", label=label)
    axis.set(xlabel="step", ylabel="training loss, mean over 50 steps", yscale="log")
    axis.yaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_minor_formatter("{x:g}")
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(
        frameon=False,
        fontsize=8,
        title="validation top-1 after 1 epoch",
        title_fontsize=8,
        loc="upper left",
        bbox_to_anchor=(1, 1),
    )
    return figure


def render(store: dict[str, Any]) -> str:
    sections = [
        "# Results",
        "Generated by `make results` (the measurements) and `make docs` (this page) from `results.json`; do "
        "not edit.",
    ]
    environments = [item["environment"] for item in store.values() if "environment" in item]
    if environments:
        sections.append(describe_machine(environments[0]))
    sections += small_recipes_section(store)
    sections += finetuning_section(store)
    if any(optimizer_command(name) in store for name in OPTIMIZERS):
        sections += [
            "## One network by every optimiser",
            "LeNet-5 on Fashion-MNIST, one epoch at a constant learning rate: the paper's default where it "
            "prints one, without a search.",
            "![Training loss by step, a curve for each optimiser](optimizers.png)",
            "Each is trained by a command such as",
            f"    {optimizer_command('Adam')}",
        ]
    sections += quick_section(store)
    return "\n\n".join(sections) + "\n"


def small_recipes_section(store: dict[str, Any]) -> list[str]:
    """The papers' small companions beside the same recipe in a plain loop."""
    rows = [
        "| network | epochs | test top-1 %, mean | spread (sd) | validation, mean | seconds "
        "| plain loop: test top-1 % | seconds |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for network in SMALL_NETWORKS:
        commands = [train_command(network, "small", seed) for seed in SEEDS]
        runs = [store[command] for command in commands if command in store]
        if len(runs) < 2:
            continue
        budget = recipes.get_recipe("small", models.get_entry(network)).budget
        assert isinstance(budget, recipes.Epochs)
        plain = store.get(plain_loop_command(network))
        plain_cells = f"{plain['test_top1']:.2f} | {plain['seconds']:,.0f}" if plain else "- | -"
        rows.append(f"| {network} | {budget.count:g} | {_result_cells(runs)} | {plain_cells} |")
    if len(rows) == 2:
        return []
    return [
        "## The recipes' small companions on Fashion-MNIST, three seeds",
        "\n".join(rows),
        "Seconds of training, without start-up, test and report; median. The plain loop is the same recipe "
        "on the same network, one seed: fp32, channels first, a DataLoader, torch's optimiser, no average of "
        "the weights (docs/plain_loop.py). Measured by",
        f"    {train_command('NETWORK', 'small', 0)}\n    {plain_loop_command('NETWORK')}",
    ]


def finetuning_section(store: dict[str, Any]) -> list[str]:
    rows = [
        "| ResNet-20 at half width, on digits | test top-1 %, mean | spread (sd) | validation, mean "
        "| seconds |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, command in (
        ("from weights that were trained on Fashion-MNIST", finetune_command),
        ("from random weights, by `quick`", from_scratch_command),
    ):
        runs = [store[command(seed)] for seed in SEEDS if command(seed) in store]
        if len(runs) < 2:
            return []
        rows.append(f"| {name} | {_result_cells(runs)} |")
    commands = f"    {finetune_command(0)}\n    {from_scratch_command(0)}"
    machine = describe_machine(runs[0]["environment"])
    return ["## Fine-tuning, three seeds", "\n".join(rows), machine, commands]


def quick_section(store: dict[str, Any]) -> list[str]:
    rows = [
        "| network | test top-1 %, mean | spread (sd) | validation, mean | seconds |",
        "|---|---:|---:|---:|---:|",
    ]
    for network in QUICK_NETWORKS:
        commands = [train_command(network, "quick", seed) for seed in SEEDS]
        runs = [store[command] for command in commands if command in store]
        if len(runs) >= 2:
            rows.append(f"| {network} | {_result_cells(runs)} |")
    return [
        "## The recipe `quick` on Fashion-MNIST, three seeds",
        "\n".join(rows),
        "The test split is evaluated once, after the last step; recipes were chosen on validation. "
        "Measured by",
        f"    {train_command('NETWORK', 'quick', 0)}",
    ]


def _result_cells(runs: Sequence[dict[str, Any]]) -> str:
    test_top1s = [run["metrics"]["test_top1"] for run in runs]
    val_top1s = [run["metrics"]["val_top1"] for run in runs]
    seconds = statistics.median(run["seconds"] for run in runs)
    return (
        f"{statistics.mean(test_top1s):.2f} | {statistics.stdev(test_top1s):.2f} | "
        f"{statistics.mean(val_top1s):.2f} | {seconds:,.0f}"
    )


if __name__ == "__main__":
    main()
