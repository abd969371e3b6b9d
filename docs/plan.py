"""Write docs/generated/plan.md: what `convatlas plan` says of two runs, and how near it comes to what runs here then do (make bench-plan).

Five minutes on two cores, which should have nothing else to do.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

import convatlas as ca
from convatlas import recipes
from convatlas.data.transforms.augment import Lighting
from convatlas.data.transforms.preprocessing import center_crop_preprocessing
from convatlas.training.run import DataContent, DataSpec, Run, RunFile, serialize_run_file

TARGET, KEPT = Path(__file__).parent / "generated" / "plan.md", Path("runs/plan")
CHECKED = (("lenet5", 2.0), ("resnet20_cifar", 0.5))  # network, epochs of Fashion-MNIST
RANKS = (1, 2)
IMAGENET = {"train": 1_281_167, "val": 50_000, "test": 50_000}


def main() -> None:
    KEPT.mkdir(parents=True, exist_ok=True)
    lines = ["# What a plan says, and what came true", "", "Made by `make bench-plan`, which writes the runs, too; do not edit.", ""]
    small, large = _stored(ca.Run(model="resnet20_cifar", data="fashion-mnist")), _stored(_imagenet())
    for title, command in (
        ("ResNet-20 on Fashion-MNIST by the recipe `quick`, on this machine", f"plan {small}"),
        ("ResNet-50 on ImageNet by its paper's recipe, on eight A100s", f"plan {large} --device a100-80gb --count 8"),
    ):
        lines += [f"## {title}", "", f"`convatlas {command}`", "", "```", _said(command), "```", ""]
    lines += _came_true()
    TARGET.write_text("\n".join(lines).rstrip() + "\n")


def _stored(run: Run) -> Path:
    file = KEPT / f"{run.model.name}.json"
    file.write_bytes(serialize_run_file(RunFile(run=run, environment={})))
    return file


def _imagenet() -> Run:
    """A run whose data is said, not there: to plan it no image is read."""
    run = ca.Run(model="resnet50", data="imagenet:/data/imagenet", recipe="paper")
    geometry = center_crop_preprocessing(3, (224, 224), run.recipe.margin)
    content = DataContent(classes=tuple(f"class {i}" for i in range(1000)), counts=IMAGENET, preprocessing=geometry, digest="")
    colours = tuple(a.with_covariance(torch.eye(3)) if isinstance(a, Lighting) else a for a in run.recipe.augment)
    return run.replace(data=DataSpec(run.data.name, content), recipe=run.recipe.replace(augment=colours), save_every=5000)


def _came_true() -> list[str]:
    lines = [
        "## What came true",
        "",
        "A plan, a training, a plan again, of the first epochs on Fashion-MNIST, batch 64; images a second.",
        "",
    ]
    lines += ["| network | processes | foretold before | after | trained | trained / foretold |", "|---|---:|---:|---:|---:|---:|"]
    for model, epochs in CHECKED:
        run = ca.Run(model=model, data="fashion-mnist")
        file = _stored(run.replace(recipe=run.recipe.replace(budget=recipes.Epochs(epochs), batch=64), log_every=20))
        for ranks in RANKS:
            out = KEPT / f"{model}-{ranks}"
            shutil.rmtree(out, ignore_errors=True)
            before = _document(ranks, f"plan {file} --json")
            _document(ranks, f"train {file} --out {out} --json")
            after = _document(ranks, f"plan {file} --json")
            rates = [json.loads(line)["images_per_second"] for line in (out / "timing.jsonl").read_text().splitlines()]
            trained, foretold = statistics.median(rates[1:]), [plan["images_per_second"] for plan in (before, after)]
            figures = f"{foretold[0]:,.0f} | {foretold[1]:,.0f} | {trained:,.0f} | {trained / statistics.mean(foretold):.2f}"
            lines.append(f"| {model} | {ranks} | {figures} |")
    return [*lines, "", "Two processes are started by `torchrun --standalone --nproc-per-node 2 -m convatlas`, each with one of the cores."]


def _said(command: str) -> str:
    return "\n".join(line.rstrip() for line in _run([sys.executable, "-m", "convatlas", *command.split()]).splitlines())


def _document(ranks: int, command: str) -> dict[str, Any]:
    start = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)] if ranks > 1 else []
    read: dict[str, Any] = json.loads(_run([sys.executable, *start, "-m", "convatlas", *command.split()]))
    return read


def _run(words: list[str]) -> str:
    print("  " + " ".join(words[1:]), file=sys.stderr, flush=True)
    return subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True, env=os.environ | {"COLUMNS": "132"}).stdout


if __name__ == "__main__":
    main()
