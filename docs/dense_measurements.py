"""The commands whose results docs/dense.py shows, and how they are run."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

RUNS = Path("runs/dense")
PHOTOS = RUNS / "photos"
FEW = RUNS / "few"  # few training images, whose masks are of one class: object
FEW_IMAGES = 30
SEEDS = (0, 1, 2)
FCN_STAGES = 3
FCN_OPTIONS = "--recipe small --epochs 0.5"  # of each stage

# Network and weights of each stage: FCN-16s begins with FCN-32s's, FCN-8s with FCN-16s's (sec. 4.2)
FCN_ARMS = {
    "FCN-32s": ("fcn32s", "fcn32s", "fcn32s"),
    "FCN-16s": ("fcn32s", "fcn16s", "fcn16s"),
    "FCN-8s": ("fcn32s", "fcn16s", "fcn8s"),
}
PRINTED_IU = {"FCN-32s": 59.4, "FCN-16s": 62.4, "FCN-8s": 62.7}  # arXiv:1411.4038, Table 2
UNET_ARMS = {"with elastic deformation": "", "without": " recipe.crop.elastic=null"}
UNET_OPTIONS = "--recipe small --epochs 40 --set recipe.optimizer.lr=0.0007"
BOX_ROWS = ("without regression", "with regression", "with regression, twice", "shuffled features")


def run_folder(name: str, seed: int) -> Path:
    return RUNS / f"{name}-{seed}"


def train_command(network: str, data: str, options: str, name: str, seed: int) -> str:
    run = f"{network} --data folder:{data} {options} --seed {seed}"
    return f"convatlas train {run} --out {run_folder(name, seed)} --json"


def fcn_command(stages: Sequence[str], seed: int) -> str:
    """The last of the stages, from the weights of the one before."""
    *before, network = stages
    weights = f" --weights {run_folder('-'.join(before), seed)}" if before else ""
    return train_command(network, f"{PHOTOS}/masks", f"{FCN_OPTIONS}{weights}", "-".join(stages), seed)


def unet_command(arm: str, seed: int) -> str:
    name = "unet-" + arm.split()[0]
    return train_command("unet", str(FEW), f"{UNET_OPTIONS}{UNET_ARMS[arm]}", name, seed)


def compare_command(first: str, second: str, seed: int) -> str:
    return f"convatlas compare {run_folder(first, seed)} {run_folder(second, seed)} --json"


def boxes_commands(seed: int) -> list[str]:
    options = "--set model.arguments.image_size=64 --epochs 4 --batch 128"
    classifier = train_command("resnet20_cifar", f"{PHOTOS}/classes", options, "resnet20", seed)
    folder = run_folder("resnet20", seed)
    detector = f"python examples/boxes.py {PHOTOS}/masks --weights {folder} --train-images 200 --seed {seed}"
    return [classifier, f"{detector} --picture {RUNS}/boxes-{seed}.png --json {RUNS}/boxes-{seed}.json"]


def chains() -> Iterator[list[str]]:
    """Commands that need one another, in their order; chains do not need each other."""
    for seed in SEEDS:
        stages = dict.fromkeys(arm[:end] for arm in FCN_ARMS.values() for end in range(1, FCN_STAGES + 1))
        yield [fcn_command(stage, seed) for stage in stages]
        yield [unet_command(arm, seed) for arm in UNET_ARMS]
    for seed in SEEDS:
        yield boxes_commands(seed)


def comparisons() -> list[str]:
    fcn = ["-".join(stages) for stages in FCN_ARMS.values()]
    pairs = [(fcn[0], fcn[1]), (fcn[1], fcn[2]), ("unet-without", "unet-with")]
    return [compare_command(first, second, seed) for first, second in pairs for seed in SEEDS]


def make_data() -> None:
    """The composites; and few of them, with masks of one class."""
    if not PHOTOS.exists():
        partial = PHOTOS.with_name("photos.partial")
        shutil.rmtree(partial, ignore_errors=True)
        subprocess.run([sys.executable, "examples/photos.py", str(partial)], check=True)
        partial.rename(PHOTOS)
    if FEW.exists():
        return
    partial = FEW.with_name("few.partial")
    shutil.rmtree(partial, ignore_errors=True)
    for split, count in (("train", FEW_IMAGES), ("val", FEW_IMAGES // 2), ("test", sys.maxsize)):
        images = sorted((PHOTOS / "masks" / split / "images").iterdir())
        rows = np.unique(np.linspace(0, len(images) - 1, min(count, len(images))).round().astype(int))
        for folder in ("images", "masks"):
            (partial / split / folder).mkdir(parents=True)
        for image in (images[row] for row in rows):
            shutil.copyfile(image, partial / split / "images" / image.name)
            name = f"{image.stem}.png"
            ids = np.array(Image.open(PHOTOS / "masks" / split / "masks" / name))
            ids[(ids > 0) & (ids < 255)] = 1
            Image.fromarray(ids).save(partial / split / "masks" / name)
    (partial / "classes.txt").write_text("background\nobject\n")
    partial.rename(FEW)


def measure(command: str, core: int) -> Any:
    """What a command prints, run with one thread on a core."""
    program, *arguments = shlex.split(command)
    module = [] if program == "python" else ["-m", program]
    process = subprocess.run(
        [sys.executable, *module, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        check=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: os.sched_setaffinity(0, {core}),
    )
    if program == "python":
        return json.loads(Path(arguments[arguments.index("--json") + 1]).read_text())
    document = json.loads(process.stdout)
    if arguments[0] != "train":
        return {key: document["paired"][0][key] for key in ("difference", "interval", "n")}
    folder = Path(document["out"])
    timing = [json.loads(line) for line in (folder / "timing.jsonl").read_text().splitlines()]
    return {
        "metrics": document["metrics"],
        "run_id": document["run_id"],
        "seconds": round(sum(line["seconds"] for line in timing)),
        "environment": json.loads((folder / "run.json").read_text())["environment"],
    }
