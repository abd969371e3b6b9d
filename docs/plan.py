"""Write docs/generated/plan.md: the output of `convatlas plan` for two runs, and a comparison of its
estimates with the speed of real trainings on this machine (make bench-plan).

Takes five minutes on two cores, which should run nothing else.
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

PAGE = Path(__file__).parent / "generated" / "plan.md"
RUNS = Path("runs/plan")
EPOCHS = {"lenet5": 2.0, "resnet20_cifar": 0.5}  # epochs of Fashion-MNIST that are trained, by network
WORLD_SIZES = (1, 2)
IMAGENET_COUNTS = {"train": 1_281_167, "val": 50_000, "test": 50_000}


def main() -> None:
    RUNS.mkdir(parents=True, exist_ok=True)
    small_run = _write_run(ca.Run(model="resnet20_cifar", data="fashion-mnist"))
    large_run = _write_run(_imagenet_run())
    lines = [
        "# Plans, and how close they come",
        "",
        "Made by `make bench-plan`, which also writes the runs; do not edit.",
        "",
    ]
    for title, command in (
        ("ResNet-20 on Fashion-MNIST by the recipe `quick`, on this machine", f"plan {small_run}"),
        (
            "ResNet-50 on ImageNet by its paper's recipe, on eight A100s",
            f"plan {large_run} --device a100-80gb --count 8",
        ),
    ):
        lines += [f"## {title}", "", f"`convatlas {command}`", "", "```", _printed_plan(command), "```", ""]
    PAGE.write_text("\n".join([*lines, *_accuracy_section()]).rstrip() + "\n")


def _write_run(run: Run) -> Path:
    file = RUNS / f"{run.model.name}.json"
    file.write_bytes(serialize_run_file(RunFile(run=run, environment={})))
    return file


def _imagenet_run() -> Run:
    """A run whose data is described but not present: a plan for a named device reads no images."""
    run = ca.Run(model="resnet50", data="imagenet:/data/imagenet", recipe="paper")
    content = DataContent(
        classes=tuple(f"class {i}" for i in range(1000)),
        counts=IMAGENET_COUNTS,
        preprocessing=center_crop_preprocessing(3, (224, 224), run.recipe.eval_resize_ratio),
        sha256="",
    )
    augment = tuple(
        transform.with_covariance(torch.eye(3)) if isinstance(transform, Lighting) else transform
        for transform in run.recipe.augment
    )
    return run.replace(
        data=DataSpec(run.data.name, content), recipe=run.recipe.replace(augment=augment), save_every=5000
    )


def _accuracy_section() -> list[str]:
    lines = [
        "## Estimated and measured speed",
        "",
        "A plan, a training and a second plan, for the first epochs on Fashion-MNIST with batch 64; images a "
        "second.",
        "",
        "| network | processes | estimated before | after | trained | trained / estimated |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for model, epochs in EPOCHS.items():
        run = ca.Run(model=model, data="fashion-mnist")
        recipe = run.recipe.replace(budget=recipes.Epochs(epochs), batch=64)
        file = _write_run(run.replace(recipe=recipe, log_every=20))
        lines += [_accuracy_row(model, file, world_size) for world_size in WORLD_SIZES]
    return [
        *lines,
        "",
        "Two processes are started by `torchrun --standalone --nproc-per-node 2 -m convatlas`, each with one "
        "of the cores.",
    ]


def _accuracy_row(model: str, file: Path, world_size: int) -> str:
    out = RUNS / f"{model}-{world_size}"
    shutil.rmtree(out, ignore_errors=True)
    before = _run_json(world_size, f"plan {file} --json")["images_per_second"]
    _run_json(world_size, f"train {file} --out {out} --json")
    after = _run_json(world_size, f"plan {file} --json")["images_per_second"]
    timing = [json.loads(line) for line in (out / "timing.jsonl").read_text().splitlines()]
    trained = statistics.median(line["images_per_second"] for line in timing[1:])
    ratio = trained / statistics.mean((before, after))
    return f"| {model} | {world_size} | {before:,.0f} | {after:,.0f} | {trained:,.0f} | {ratio:.2f} |"


def _printed_plan(command: str) -> str:
    text = _run([sys.executable, "-m", "convatlas", *command.split()])
    return "\n".join(line.rstrip() for line in text.splitlines())


def _run_json(world_size: int, command: str) -> dict[str, Any]:
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(world_size)]
    launcher = torchrun if world_size > 1 else []
    text = _run([sys.executable, *launcher, "-m", "convatlas", *command.split()])
    document: dict[str, Any] = json.loads(text)
    return document


def _run(command: list[str]) -> str:
    print("  " + " ".join(command[1:]), file=sys.stderr, flush=True)
    environment = os.environ | {"COLUMNS": "132"}
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout


if __name__ == "__main__":
    main()
