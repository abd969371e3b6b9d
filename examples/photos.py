"""A set to try classification, dense prediction and boxes on: photographed objects, cut out by hand, placed
on photographs.

python examples/photos.py FOLDER [--per-object 15] [--size 320x240] [--seed 0]

The images are composites. They are good for trying the tools, and support no claim about photographs:
docs/photos.md.
"""

import csv
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import simplejpeg
import tyro
from composites import (
    SPLITS,
    Stamp,
    blend,
    find_stamps,
    load_backgrounds,
    random_background,
    random_object_layer,
    split_stamps,
)
from PIL import Image

from convatlas.data.sources.download import DebianTree
from convatlas.errors import UsageError, UserError, printable
from convatlas.runtime.num_threads import usable_cores
from convatlas.runtime.progress import track

STAMPS = DebianTree("tuxpaint-stamps", "tuxpaint-stamps-default", "/usr/share/tuxpaint/stamps", (".png",))

# The folders of the package that make a class; each class has a dozen or more photographed objects.
CLASS_FOLDERS = {
    "bird": ("animals/birds",),
    "flower": ("plants/flowers",),
    "fruit": ("food/fruit",),
    "household": ("household",),
    "mammal": ("animals/mammals", "animals/marsupials"),
    "vegetable": ("food/vegetables",),
    "vehicle": ("vehicles", "military/vehicles"),
}
BACKGROUND, AMBIGUOUS = 0, 255  # in masks, where class ids start at 1
OBJECT_OPACITY = 0.95  # from here on a pixel belongs to the object; up to 1 - OBJECT_OPACITY it is background
HEAD = "Composites, made by ConvAtlas's examples/photos.py"


@dataclass(frozen=True)
class Composite:
    """A composite image that is to be made."""

    split: str
    stamp: Stamp
    number: int  # among the composites of its stamp

    @property
    def name(self) -> str:
        return f"{self.stamp.name.replace('/', '-')}-{self.number:03d}"

    @property
    def file(self) -> str:
        return f"{self.split}/{self.stamp.class_name}/{self.name}.jpg"


@dataclass(frozen=True)
class Annotation:
    """The position of a composite's object: the box (left, top, width, height) of its `area` pixels."""

    box: tuple[int, int, int, int]
    area: int


def main(
    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")],
    /,
    per_object: int = 15,
    size: str = "320x240",
    seed: int = 0,
) -> None:
    """Build the set.

    Args:
        folder: a new folder, or one that this script made.
        per_object: images of every object.
        size: of every image, WIDTHxHEIGHT.
        seed: another seed gives other images of the same objects, in the same splits.
    """
    start = time.monotonic()
    composites = build(folder, STAMPS.locate(), CLASS_FOLDERS, per_object, parse_size(size), seed)
    print(f"{'class':10}{'objects':>9}" + "".join(f"{split:>9}" for split in SPLITS))
    for name in CLASS_FOLDERS:
        of_class = [composite for composite in composites if composite.stamp.class_name == name]
        counts = [len({composite.stamp.object_name for composite in of_class})]
        counts += [sum(composite.split == split for composite in of_class) for split in SPLITS]
        print(f"{name:10}" + "".join(f"{count:9,}" for count in counts))
    seconds = time.monotonic() - start
    print(f"{len(composites):,} composites in {seconds:.0f} s: {folder}/README.txt describes them")
    data = f"folder:{folder}/classes"
    print(f"next: convatlas train resnet20_cifar --data {data} --set model.arguments.image_size=64")
    print(f"masks: convatlas train unet --data folder:{folder}/masks --recipe small")


def parse_size(size: str) -> tuple[int, int]:
    """(width, height) of WIDTHxHEIGHT. Raises UsageError."""
    match = re.fullmatch(r"(\d{1,4})x(\d{1,4})", size)
    width, height = (int(match[1]), int(match[2])) if match else (0, 0)
    if not (32 <= width <= 1024 and 32 <= height <= 1024):
        raise UsageError(
            f"--size is {printable(size)!r}: expected WIDTHxHEIGHT, both from 32 to 1024, such as 320x240"
        )
    return width, height


def build(
    folder: Path,
    source: Path,
    class_folders: Mapping[str, Sequence[str]],
    per_object: int,
    size: tuple[int, int],
    seed: int,
) -> list[Composite]:
    """Write the set. FOLDER keeps its old content until the new set is complete. Raises UserError."""
    if per_object < 1 or seed < 0:
        raise UsageError("--per-object should be 1 or more, and --seed 0 or more")
    with replace_folder(folder) as new_folder:
        stamps = split_stamps(find_stamps(source, class_folders), class_folders)
        composites = [
            Composite(split, stamp, number)
            for split in SPLITS
            for stamp in stamps[split]
            for number in range(per_object)
        ]
        class_ids = {name: number for number, name in enumerate(sorted(class_folders), 1)}
        names = ["background", *sorted(class_folders)]
        for split in SPLITS:
            for name in class_folders:
                (new_folder / "classes" / split / name).mkdir(parents=True)
            for name in ("images", "masks"):
                (new_folder / "masks" / split / name).mkdir(parents=True)
        (new_folder / "masks" / "classes.txt").write_text("\n".join(names) + "\n")
        backgrounds = {split: load_backgrounds(split) for split in SPLITS}
        write = partial(
            write_composite, new_folder, backgrounds=backgrounds, class_ids=class_ids, size=size, seed=seed
        )
        with ThreadPoolExecutor(usable_cores()) as pool:
            results = pool.map(write, composites)
            annotations = list(track(results, len(composites), "placing objects on photographs"))
        write_manifest(new_folder / "classes" / "manifest.csv", composites)
        for split in SPLITS:
            annotated = [
                (composite, annotation)
                for composite, annotation in zip(composites, annotations, strict=True)
                if composite.split == split
            ]
            document = coco_document(annotated, class_ids, size)
            (new_folder / "masks" / split / "boxes.json").write_text(json.dumps(document))
        (new_folder / "README.txt").write_text(readme_text(class_ids, per_object, size, seed))
    return composites


def write_composite(
    folder: Path,
    composite: Composite,
    backgrounds: Mapping[str, Sequence[Image.Image]],
    class_ids: Mapping[str, int],
    size: tuple[int, int],
    seed: int,
) -> Annotation:
    """Write a composite and its mask. Everything random follows from the seed, the stamp and the number."""
    rng = np.random.default_rng([seed, composite.number, *composite.stamp.name.encode()])
    background = random_background(backgrounds[composite.split], size, rng)
    layer = random_object_layer(composite.stamp.image, size, rng)
    pixels, opacity = blend(background, layer, rng)
    file = folder / "classes" / composite.file
    file.write_bytes(simplejpeg.encode_jpeg(pixels, int(rng.integers(75, 96)), "RGB", "420"))
    masks_folder = folder / "masks" / composite.split
    link_or_copy(file, masks_folder / "images" / file.name)
    is_object = opacity >= OBJECT_OPACITY
    is_edge = ~is_object & (opacity > 1 - OBJECT_OPACITY)
    mask = np.full(opacity.shape, BACKGROUND, np.uint8)
    mask[is_object] = class_ids[composite.stamp.class_name]
    mask[is_edge] = AMBIGUOUS
    Image.fromarray(mask).save(masks_folder / "masks" / f"{composite.name}.png")
    left, top, right, bottom = Image.fromarray(is_object).getbbox() or (0, 0, 0, 0)
    return Annotation((left, top, right - left, bottom - top), int(is_object.sum()))


def write_manifest(file: Path, composites: Sequence[Composite]) -> None:
    rows = [(item.file, item.stamp.class_name, item.split, item.stamp.object_name) for item in composites]
    with open(file, "w", newline="") as stream:
        csv.writer(stream, lineterminator="\n").writerows([("file", "label", "split", "group"), *rows])


def coco_document(
    annotated: Sequence[tuple[Composite, Annotation]], class_ids: Mapping[str, int], size: tuple[int, int]
) -> dict[str, object]:
    """The annotations in COCO's format for detection; a box is [left, top, width, height]."""
    images = [
        {"id": number, "file_name": f"images/{composite.name}.jpg", "width": size[0], "height": size[1]}
        for number, (composite, _) in enumerate(annotated, 1)
    ]
    annotations = [
        {
            "id": number,
            "image_id": number,
            "category_id": class_ids[composite.stamp.class_name],
            "bbox": list(annotation.box),
            "area": annotation.area,
            "iscrowd": 0,
        }
        for number, (composite, annotation) in enumerate(annotated, 1)
    ]
    return {
        "info": {"description": HEAD},
        "images": images,
        "annotations": annotations,
        "categories": [{"id": number, "name": name} for name, number in class_ids.items()],
    }


def readme_text(class_ids: Mapping[str, int], per_object: int, size: tuple[int, int], seed: int) -> str:
    classes = ", ".join(f"{number} {name}" for name, number in class_ids.items())
    return f"""{HEAD}

These are not photographs: objects were cut out of photographs by hand and placed on other photographs by a
program. Use them to see that training, evaluation and prediction work, not to claim anything about
photographs.

Objects: Debian's package {STAMPS.package} (Tux Paint's stamps, copyright 2002-2022 Bill Kendrick and the
contributors that its documentation names, GPL-2). Backgrounds: scikit-image's sample photographs. Copies of
this folder that are passed on fall under GPL-2.

classes/  train, val and test, a folder for each class; manifest.csv: file, label, split, group (the object)
masks/    the same images, and for each a PNG of class ids: {BACKGROUND} background, {AMBIGUOUS} the
          object's edge, {classes};
          boxes.json: the boxes of those masks in COCO's format
No object and no background is in two splits.

Made with: --per-object {per_object} --size {size[0]}x{size[1]} --seed {seed}
"""


@contextmanager
def replace_folder(folder: Path) -> Iterator[Path]:
    """A new folder that replaces `folder` when the block ends, and is removed when the block fails.

    Raises UsageError for a folder with content that this script did not make.
    """
    folder = folder.expanduser().resolve()
    if folder.exists() and not (folder.is_dir() and was_made_here(folder)):
        raise UsageError(f"{printable(folder)} holds something else: give a new folder")
    new_folder, old_folder = (
        folder.with_name(f".{folder.name}.{os.getpid()}.{suffix}") for suffix in ("part", "old")
    )
    new_folder.mkdir(parents=True)
    try:
        yield new_folder
        if folder.exists():
            folder.rename(old_folder)
        new_folder.rename(folder)
    finally:
        for leftover in (new_folder, old_folder):
            shutil.rmtree(leftover, ignore_errors=True)


def was_made_here(folder: Path) -> bool:
    """Whether a folder is empty, or this script made all of its content."""
    names = {path.name for path in folder.iterdir()}
    if names - {"classes", "masks", "README.txt"}:
        return False
    if not names:
        return True
    return "README.txt" in names and (folder / "README.txt").read_text(errors="replace").startswith(HEAD)


def link_or_copy(file: Path, target: Path) -> None:
    """Give the file another name: a hard link, or a copy where the file system has no links."""
    try:
        target.hardlink_to(file)
    except OSError:
        shutil.copyfile(file, target)


if __name__ == "__main__":
    try:
        tyro.cli(main)
    except UserError as error:
        print(f"photos: {printable(error)}", file=sys.stderr)
        sys.exit(error.exit_code)
