"""The recipe `quick` on small and uneven data sets, beside a plain loop: run the missing measurements, store
them, render the page. `make bench-small-sets` calls this, `make docs` calls it with --render.

A measurement is a command and what it printed. An interrupted training continues, and stored measurements are
not repeated: to measure again, remove the entry from small_sets.json. The data sets are folders of images
under runs/small-sets, made from the installed sets and from the composites of docs/photos.md. The plain loop
is docs/small_sets_loop.py; its rate is the best of three on the validation images of seed 0.
"""

import json
import shlex
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from convatlas.data import Split, open_dataset
from convatlas.data.transforms.counter_rng import permutation

GENERATED = Path(__file__).parent / "generated"
STORE = GENERATED / "small_sets.json"
PAGE = GENERATED / "small_sets.md"
RUNS = Path("runs/small-sets")
PHOTOS = Path("runs/photos")
PHOTOS_COMMAND = f"python examples/photos.py {PHOTOS}"
SEEDS = (0, 1, 2)
VAL_SHARE = 0.2  # of the images that a situation has for training and validation
TEST_PER_CLASS = 200  # of Fashion-MNIST
TEST_COMPOSITES = 60  # of each class, other images of the objects that are trained on
RATES = (0.1, 0.03, 0.01)  # of the plain loop
RATES_WITHOUT_BATCH_NORM = (0.01, 0.003, 0.001)
UNEVEN = (300, 20, 10)


@dataclass(frozen=True)
class Situation:
    """A data set and a network; `make` writes the data set's folder, None for a built-in set."""

    name: str
    data: str
    network: str  # with its options
    size: int  # pixels a side
    make: Callable[[Path], None] | None = None
    batch_norm: bool = True


def write_images(folder: Path, split: Split, classes: Sequence[str], chosen: Sequence[int]) -> None:
    """Write the chosen images of a split in memory as PNG files, FOLDER/CLASS/INDEX.png."""
    for index in chosen:
        name = classes[split.labels[index]].replace("/", "-")
        (folder / name).mkdir(parents=True, exist_ok=True)
        pixels = split.images.image(index).decode(1, (0, 0))
        Image.fromarray(pixels[:, :, 0]).save(folder / name / f"{index:05d}.png")


def make_fashion(folder: Path, per_class: Sequence[int]) -> None:
    """A folder of Fashion-MNIST with so many images of each class, for training and validation."""
    dataset = open_dataset("fashion-mnist")
    train, test = dataset.splits["train"], dataset.splits["test"]
    for label, count in enumerate(per_class):
        members = np.flatnonzero(train.labels == label)
        chosen = members[permutation(0, label, len(members))[:count]].tolist()
        num_val = max(1, round(VAL_SHARE * count))
        write_images(folder / "val", train, dataset.classes, chosen[:num_val])
        write_images(folder / "train", train, dataset.classes, chosen[num_val:])
        test_images = np.flatnonzero(test.labels == label)[:TEST_PER_CLASS].tolist()
        write_images(folder / "test", test, dataset.classes, test_images)


def make_photos(folder: Path, per_class: dict[str, int]) -> None:
    """A folder of composites with so many images of each class, for training and validation; the test images
    show the same objects, elsewhere."""
    if not PHOTOS.exists():
        run(PHOTOS_COMMAND)
    for number, (name, count) in enumerate(per_class.items()):
        files = sorted((PHOTOS / "classes" / "train" / name).iterdir())
        shuffled = [files[i] for i in permutation(0, number, len(files))]
        chosen, test_files = shuffled[:count], shuffled[-TEST_COMPOSITES:]
        num_val = max(1, round(VAL_SHARE * count))
        split_files = {"val": chosen[:num_val], "train": chosen[num_val:], "test": test_files}
        for split in split_files:
            (folder / split / name).mkdir(parents=True)
            for file in split_files[split]:
                shutil.copyfile(file, folder / split / name / file.name)


OBJECTS = ("bird", "flower", "fruit", "household", "mammal", "vegetable", "vehicle")


def fashion(per_class: Sequence[int]) -> Callable[[Path], None]:
    return partial(make_fashion, per_class=per_class)


def photos(count: int) -> Callable[[Path], None]:
    return partial(make_photos, per_class=dict.fromkeys(OBJECTS, count))


def situations() -> list[Situation]:
    def folder(name: str) -> str:
        return f"folder:{RUNS}/{name}"

    uneven_objects = dict(zip(("mammal", "bird", "fruit"), UNEVEN, strict=True))
    small_resnet18 = "resnet18 --set model.arguments.width=0.25 model.arguments.image_size={}"
    small_vgg = "vgg11 --set model.arguments.width=0.25 model.arguments.image_size=64"
    small_mobilenet = "mobilenet_v1 --set model.arguments.width=0.5 model.arguments.image_size=96"
    fashion_100, fashion_1000, fashion_uneven = (
        folder(f"fashion-{name}") for name in ("100", "1000", "uneven")
    )
    photos_5, photos_20, photos_100 = (folder(f"photos-{count}") for count in (5, 20, 100))
    return [
        Situation("digits-lenet5", "digits", "lenet5", 32, batch_norm=False),
        Situation("digits-resnet20", "digits", "resnet20_cifar", 32),
        Situation("fashion-100-lenet5", fashion_100, "lenet5", 32, fashion([10] * 10), batch_norm=False),
        Situation("fashion-100-resnet20", fashion_100, "resnet20_cifar", 32, fashion([10] * 10)),
        Situation("fashion-1000-lenet5", fashion_1000, "lenet5", 32, fashion([100] * 10), batch_norm=False),
        Situation("fashion-1000-resnet20", fashion_1000, "resnet20_cifar", 32, fashion([100] * 10)),
        Situation("fashion-uneven-resnet20", fashion_uneven, "resnet20_cifar", 32, fashion(UNEVEN)),
        Situation("photos-5-resnet20", photos_5, "resnet20_cifar", 32, photos(5)),
        Situation("photos-20-resnet20", photos_20, "resnet20_cifar", 32, photos(20)),
        Situation("photos-100-resnet20", photos_100, "resnet20_cifar", 32, photos(100)),
        Situation("photos-20-resnet18", photos_20, small_resnet18.format(64), 64, photos(20)),
        Situation("photos-100-mobilenet", photos_100, small_mobilenet, 96, photos(100)),
        Situation("photos-100-vgg11", photos_100, small_vgg, 64, photos(100), batch_norm=False),
        Situation("photos-20-resnet18-224", photos_20, small_resnet18.format(224), 224, photos(20)),
        Situation(
            "photos-uneven-resnet18",
            folder("photos-uneven"),
            small_resnet18.format(64),
            64,
            partial(make_photos, per_class=uneven_objects),
        ),
        Situation("fashion-all-lenet5", "fashion-mnist", "lenet5", 32, batch_norm=False),
    ]


def train_command(situation: Situation, seed: int) -> str:
    network, _, options = situation.network.partition(" ")
    out = RUNS / "runs" / f"{situation.name}-{seed}"
    return f"convatlas train {network} --data {situation.data} --seed {seed} --out {out} {options}".strip()


def plain_command(situation: Situation, rate: float, seed: int, images_seen: int) -> str:
    network, _, options = situation.network.partition(" ")
    arguments = f"{network} --data {situation.data} --size {situation.size} --rate {rate} --seed {seed}"
    return f"python docs/small_sets_loop.py {arguments} --images-seen {images_seen} {options}".strip()


def run(command: str) -> str:
    program, *arguments = shlex.split(command)
    module = [] if program == "python" else ["-m", program]
    options = ["--json"] if program == "convatlas" else []
    process = [sys.executable, *module, *arguments[:1], *options, *arguments[1:]]
    return subprocess.run(process, stdout=subprocess.PIPE, check=True, text=True).stdout


def measure(command: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(run(command))
    if not command.startswith("convatlas"):
        return document
    folder = Path(document["out"])
    record = json.loads((folder / "run.json").read_text())
    timing = [json.loads(line) for line in (folder / "timing.jsonl").read_text().splitlines()]
    counts = record["run"]["data"]["content"]["counts"]
    recipe = record["run"]["recipe"]
    steps = max(json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines())
    return {
        "test_top1": document["metrics"]["test_top1"],
        "val_top1": document["metrics"]["val_top1"],
        "test_n": document["metrics"]["test_n"],
        "seconds": round(sum(line["seconds"] for line in timing)),
        "train": counts["train"],
        "classes": len(record["run"]["data"]["content"]["classes"]),
        "batch": recipe["batch"],
        "lr": recipe["optimizer"]["lr"],
        "steps": steps,
    }


class Store:
    """The measurements, each written when it is done."""

    def __init__(self) -> None:
        self.measurements: dict[str, Any] = json.loads(STORE.read_text()) if STORE.exists() else {}

    def measure(self, command: str) -> None:
        """Run a command whose result is not stored."""
        if command not in self.measurements:
            print(f"$ {command}", flush=True)
            self.measurements[command] = measure(command)
            STORE.write_text(json.dumps(self.measurements, indent=1, sort_keys=True) + "\n")


def measure_situation(situation: Situation, store: Store, seeds: Sequence[int]) -> None:
    folder = Path(situation.data.removeprefix("folder:"))
    if situation.make is not None and not folder.exists():
        unfinished = folder.with_name(f"{folder.name}.part")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        situation.make(unfinished)
        unfinished.rename(folder)
    rates = RATES if situation.batch_norm else RATES_WITHOUT_BATCH_NORM
    for seed in seeds:
        store.measure(train_command(situation, seed))
        for rate in rates if seed == SEEDS[0] else ():
            store.measure(plain_command(situation, rate, seed, num_images_seen(situation, store)))
        store.measure(best_plain_command(situation, store, seed))


def best_plain_command(situation: Situation, store: Store, seed: int) -> str:
    """The plain loop at the rate whose validation accuracy of seed 0 is highest."""
    images_seen = num_images_seen(situation, store)
    rates = RATES if situation.batch_norm else RATES_WITHOUT_BATCH_NORM
    val_top1 = {
        rate: store.measurements[plain_command(situation, rate, SEEDS[0], images_seen)]["val_top1"]
        for rate in rates
    }
    return plain_command(situation, max(rates, key=lambda rate: val_top1[rate]), seed, images_seen)


def num_images_seen(situation: Situation, store: Store) -> int:
    ours = store.measurements[train_command(situation, SEEDS[0])]
    return int(ours["steps"] * ours["batch"])


def main() -> None:
    store = Store()
    if "--render" not in sys.argv:
        for seeds in (SEEDS[:1], SEEDS):  # every situation once, then the other seeds
            for situation in situations():
                measure_situation(situation, store, seeds)
    PAGE.write_text(render(store))
    print(f"wrote {PAGE}")


def render(store: Store) -> str:
    rows = [
        "| data | network | training images, classes | batch, steps | seconds | quick, test top-1 % "
        "| plain loop | its rate | difference |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    differences = []
    for situation in situations():
        try:
            ours = [store.measurements[train_command(situation, seed)] for seed in SEEDS]
            plain_commands = [best_plain_command(situation, store, seed) for seed in SEEDS]
            plain = [store.measurements[command] for command in plain_commands]
        except KeyError:  # not measured yet
            continue
        means = [statistics.mean(run["test_top1"] for run in runs) for runs in (ours, plain)]
        differences.append(means[0] - means[1])
        first = ours[0]
        network, _, options = situation.network.partition(" --set ")
        cells = (
            situation.data.rsplit("/", 1)[-1],
            f"{network} {options.replace('model.arguments.', '')}".strip(),
            f"{first['train']:,}, {first['classes']}",
            f"{first['batch']}, {first['steps']:,}",
            f"{statistics.median(run['seconds'] for run in ours):,.0f}",
            *(
                f"{mean:.1f} (sd {statistics.stdev(run['test_top1'] for run in runs):.1f})"
                for mean, runs in zip(means, (ours, plain), strict=True)
            ),
            plain_commands[0].split("--rate ")[1].split()[0],
            f"{differences[-1]:+.1f}",
        )
        rows.append(f"| {' | '.join(cells)} |")
    return (
        "\n\n".join(
            [
                "# The recipe `quick` on small sets",
                "Generated by `make bench-small-sets` (the measurements) and `make docs` (this page) from "
                "`small_sets.json`; do not edit.",
                "Test accuracy, mean of three seeds, beside a plain loop of the same network that sees as "
                "many images: SGD with momentum 0.9 and a cosine, batch 32 (128 for 55,000 images), standard "
                "augmentation, the best of three rates on the validation images of seed 0 "
                "(`docs/small_sets_loop.py`). One thread.",
                "\n".join(rows),
                f"Mean difference {statistics.mean(differences):+.2f} points, lowest {min(differences):+.1f}."
                if differences
                else "No situation is measured yet.",
                "`photos-N` are N composites of each of seven classes ([photos.md](../photos.md)), "
                f"`fashion-N` N images of Fashion-MNIST; a fifth of them is for validation. `uneven`: "
                f"{', '.join(map(str, UNEVEN))} images of three classes. Fashion-MNIST is tested on images "
                "of its test split, composites on other composites of the same objects.",
            ]
        )
        + "\n"
    )


if __name__ == "__main__":
    main()
