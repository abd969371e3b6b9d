"""A set to try classification, dense prediction and boxes on: photographed objects, cut out by hand, laid over photographs.

python examples/photos.py FOLDER [--per-object 15] [--size 320x240] [--seed 0]

The pictures are composites, good for trying the machinery and for no claim about photographs: docs/photos.md.
"""

import csv
import itertools
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import numpy as np
import simplejpeg
import tyro
from numpy.typing import NDArray
from PIL import Image, ImageFilter, ImageOps

from convatlas.data.images import decode
from convatlas.data.images.decode import Pixels, UnreadableImage
from convatlas.data.sources.content_hash import content_hash
from convatlas.data.sources.download import DebianTree
from convatlas.data.sources.split import stratified_holdout
from convatlas.errors import UsageError, UserError, printable
from convatlas.runtime.device import usable_cores
from convatlas.runtime.progress import track

STAMPS = DebianTree("tuxpaint-stamps", "tuxpaint-stamps-default", "/usr/share/tuxpaint/stamps", (".png",))

# A class is what the package keeps in these folders; of each there are a dozen or more photographed objects.
KINDS = {
    "bird": ("animals/birds",),
    "flower": ("plants/flowers",),
    "fruit": ("food/fruit",),
    "household": ("household",),
    "mammal": ("animals/mammals", "animals/marsupials"),
    "vegetable": ("food/vegetables",),
    "vehicle": ("vehicles", "military/vehicles"),
}
DRAWN = {"cartoon", "toys", "plastic"}  # what the package itself says of some folders
LEAST_LENGTH, LEAST_COLOURS, MOST_ALIKE = 50, 200, 0.3  # of a photograph

# The photographs that scikit-image brings, each in one split; of some the part (left, top, right, bottom) that shows none of the classes.
WHOLE = (0.0, 0.0, 1.0, 1.0)
PHOTOGRAPHS = {
    "train": {
        "astronaut.png": (0.0, 0.0, 0.66, 1.0),
        "brick.png": WHOLE,
        "camera.png": WHOLE,
        "coins.png": WHOLE,
        "grass.png": WHOLE,
        "hubble_deep_field.jpg": WHOLE,
        "ihc.png": WHOLE,
        "motorcycle_left.png": (0.74, 0.0, 1.0, 0.23),
    },
    "val": {"coffee.png": (0.8, 0.0, 1.0, 1.0), "gravel.png": WHOLE, "page.png": WHOLE},
    "test": {"moon.png": WHOLE, "retina.jpg": (0.2, 0.15, 0.8, 0.85), "rocket.jpg": (0.0, 0.0, 0.46, 1.0), "text.png": WHOLE},
}

SPLITS = ("train", "val", "test")
BACKGROUND, AMBIGUOUS = 0, 255  # in masks, where classes count from 1
CERTAIN = 0.95  # the opacity from which a pixel is the object's; up to 1 - CERTAIN it is the background's
MOST_ENLARGED = 3.0
HEAD = "Composites, made by ConvAtlas's examples/photos.py"


@dataclass(frozen=True)
class Stamp:
    """A photographed object with its outline. Stamps of one `thing` show the same one, or may."""

    name: str  # its file, without the ending
    kind: str
    thing: str
    cut_out: Image.Image  # RGBA, without empty borders
    key: bytes  # hash of the file


@dataclass(frozen=True)
class Picture:
    """One that is to be made."""

    split: str
    stamp: Stamp
    number: int  # among those of its object

    @property
    def name(self) -> str:
        return f"{self.stamp.name.replace('/', '-')}-{self.number:03d}"

    @property
    def file(self) -> str:
        return f"{self.split}/{self.stamp.kind}/{self.name}.jpg"


@dataclass(frozen=True)
class Place:
    """Where a picture's object is: (left, top, width, height) of the `area` pixels that are its own for certain."""

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
        folder: a new one, or one that was made by this script.
        per_object: pictures of every object.
        size: of every picture, WIDTHxHEIGHT.
        seed: another one gives other pictures of the same objects, in the same splits.
    """
    began = time.monotonic()
    pictures = build(folder, STAMPS.locate(), KINDS, per_object, in_pixels(size), seed)
    print(f"{'class':10}{'objects':>9}" + "".join(f"{split:>9}" for split in SPLITS))
    for kind in KINDS:
        of_kind = [picture for picture in pictures if picture.stamp.kind == kind]
        counts = [len({picture.stamp.thing for picture in of_kind})]
        counts += [sum(picture.split == split for picture in of_kind) for split in SPLITS]
        print(f"{kind:10}" + "".join(f"{count:9,}" for count in counts))
    print(f"{len(pictures):,} composites in {time.monotonic() - began:.0f} s: {folder}/README.txt says what they are")
    print(f"next: convatlas train resnet20_cifar --data folder:{folder}/classes --set model.arguments.image_size=64")


def in_pixels(size: str) -> tuple[int, int]:
    """(width, height). Raises UsageError."""
    found = re.fullmatch(r"(\d{1,4})x(\d{1,4})", size)
    width, height = (int(found[1]), int(found[2])) if found else (0, 0)
    if not (32 <= width <= 1024 and 32 <= height <= 1024):
        raise UsageError(f"--size is {printable(size)!r}: expected WIDTHxHEIGHT, both from 32 to 1024, such as 320x240")
    return width, height


def build(
    folder: Path, source: Path, kinds: Mapping[str, Sequence[str]], per_object: int, size: tuple[int, int], seed: int
) -> list[Picture]:
    """Write the set; what is in FOLDER before all is written is what was there before. Raises UserError."""
    if per_object < 1 or seed < 0:
        raise UsageError("--per-object should be 1 or more, and --seed 0 or more")
    with replacing(folder) as part:
        parts = divide(find(source, kinds), kinds)
        pictures = [Picture(split, stamp, number) for split in SPLITS for stamp in parts[split] for number in range(per_object)]
        ids = {kind: number for number, kind in enumerate(sorted(kinds), 1)}
        for split in SPLITS:
            for inner in (*(f"classes/{split}/{kind}" for kind in kinds), f"masks/{split}/images", f"masks/{split}/masks"):
                (part / inner).mkdir(parents=True)
        one = partial(make, part, scenes={split: photographs(split) for split in SPLITS}, ids=ids, size=size, seed=seed)
        with ThreadPoolExecutor(usable_cores()) as pool:
            places = list(track(pool.map(one, pictures), len(pictures), "laying objects over photographs"))
        with open(part / "classes" / "manifest.csv", "w", newline="") as file:
            rows = [(picture.file, picture.stamp.kind, picture.split, picture.stamp.thing) for picture in pictures]
            csv.writer(file, lineterminator="\n").writerows([("file", "label", "split", "group"), *rows])
        for split in SPLITS:
            placed = [(picture, place) for picture, place in zip(pictures, places, strict=True) if picture.split == split]
            (part / "masks" / split / "boxes.json").write_text(json.dumps(coco(placed, ids, size)))
        (part / "README.txt").write_text(readme(ids, per_object, size, seed))
    return pictures


def find(source: Path, kinds: Mapping[str, Sequence[str]]) -> list[Stamp]:
    """The photographed objects of these kinds. Raises UnreadableImage."""
    found: list[Stamp] = []
    for kind, folders in kinds.items():
        beside: dict[Path, list[str]] = {}
        paths = [path for folder in folders for path in (source / folder).rglob("*.png")]
        for path in sorted(paths, key=lambda path: str(path.with_suffix("")).lower()):
            inner = path.relative_to(source)
            if DRAWN & set(inner.parts) or inner.stem.endswith("_mirror"):
                continue
            file = decode.open_image(path)
            try:
                stamp = file.opened.convert("RGBA")
            except (OSError, ValueError, SyntaxError) as error:
                raise UnreadableImage(str(path), str(error)) from None
            if not is_photograph(np.asarray(stamp)):
                continue
            stems = beside.setdefault(inner.parent, [])
            thing = next((stem for stem in stems if continues(inner.stem, stem)), inner.stem)
            stems.append(inner.stem)
            cut_out = stamp.crop(stamp.getchannel("A").getbbox())
            found.append(Stamp(str(inner.with_suffix("")), kind, str(inner.with_name(thing)), cut_out, content_hash(file.data)))
    return found


def continues(name: str, other: str) -> bool:
    """Whether a name goes on where another ends: `lion` and `lion-2` may be the same lion."""
    name, other = name.lower(), other.lower()
    return name.startswith(other) and not name[len(other) :][:1].isalpha()


def is_photograph(stamp: Pixels) -> bool:
    """Large enough to be seen, opaque for the most part, of many colours; and few neighbours are exactly alike, as most of a drawing's are.

    stamp: (height, width, 4).
    """
    opaque = stamp[:, :, 3] == 255
    if max(opaque.shape) < LEAST_LENGTH or opaque.sum() <= (stamp[:, :, 3] > 0).sum() / 2:
        return False
    colours = stamp[:, :, :3] @ np.array([1 << 16, 1 << 8, 1])
    beside = opaque[:, 1:] & opaque[:, :-1]
    alike = ((colours[:, 1:] == colours[:, :-1]) & beside).sum() / max(beside.sum(), 1)
    return len(np.unique(colours[opaque])) >= LEAST_COLOURS and bool(alike < MOST_ALIKE)


def divide(stamps: Sequence[Stamp], kinds: Iterable[str]) -> dict[str, list[Stamp]]:
    """By thing: 15 % of every class's for validation, 15 % for test, the rest to train. Raises UserError."""
    ordered = sorted(kinds)
    labels = np.array([ordered.index(stamp.kind) for stamp in stamps], np.int64)
    held = stratified_holdout(labels, [stamp.key for stamp in stamps], [0.15, 0.15], [stamp.thing for stamp in stamps])
    parts = {split: [stamps[i] for i in indices] for split, indices in zip(("val", "test", "train"), held, strict=True)}
    for kind, split in itertools.product(ordered, SPLITS):
        if not any(stamp.kind == kind for stamp in parts[split]):
            raise UserError(f"too few photographed objects of class {printable(kind)} for one in {split}: expected a dozen stamps of it")
    return parts


def photographs(split: str) -> list[Image.Image]:
    """The split's backgrounds, grey or RGB. Raises UserError."""
    package = find_spec("skimage")
    if package is None or package.origin is None:
        raise UserError("the backgrounds come with scikit-image, which is not installed: pip install 'convatlas[sets]'")
    found = []
    for name, (left, top, right, bottom) in PHOTOGRAPHS[split].items():
        whole = decode.open_image(Path(package.origin).parent / "data" / name)
        box = (round(left * whole.width), round(top * whole.height), round(right * whole.width), round(bottom * whole.height))
        found.append(whole.opened.convert("L" if decode.is_grayscale(whole) else "RGB").crop(box))
    return found


def make(
    folder: Path, picture: Picture, scenes: Mapping[str, Sequence[Image.Image]], ids: Mapping[str, int], size: tuple[int, int], seed: int
) -> Place:
    """Write a picture and its mask; all that is random in it follows from the seed, the object and the number."""
    generator = np.random.default_rng([seed, picture.number, *picture.stamp.name.encode()])
    behind = scene(scenes[picture.split], size, generator)
    object_ = pose(picture.stamp.cut_out, size, generator)
    pixels, opacity = blend(behind, object_, generator)
    file = folder / "classes" / picture.file
    file.write_bytes(simplejpeg.encode_jpeg(pixels, int(generator.integers(75, 96)), "RGB", "420"))
    beside = folder / "masks" / picture.split
    link(file, beside / "images" / file.name)
    own = opacity >= CERTAIN
    mask = np.where(own, ids[picture.stamp.kind], np.where(opacity > 1 - CERTAIN, AMBIGUOUS, BACKGROUND)).astype(np.uint8)
    Image.fromarray(mask).save(beside / "masks" / f"{picture.name}.png")
    left, top, right, bottom = Image.fromarray(own).getbbox() or (0, 0, 0, 0)
    return Place((left, top, right - left, bottom - top), int(own.sum()))


def scene(photographs: Sequence[Image.Image], size: tuple[int, int], generator: np.random.Generator) -> Image.Image:
    """Some part of some photograph, at some scale, mirrored or not, in light of some colour: stronger where it is grey."""
    photograph = photographs[int(generator.integers(len(photographs)))]
    most = min(whole / wanted for whole, wanted in zip(photograph.size, size, strict=True))
    scale = generator.uniform(min(most, max(0.4 * most, 1 / MOST_ENLARGED)), most)
    width, height = scale * size[0], scale * size[1]
    left, top = (max(0.0, whole - own) * generator.random() for whole, own in zip(photograph.size, (width, height), strict=True))
    box = (left, top, min(left + width, photograph.width), min(top + height, photograph.height))
    part = photograph.resize(size, Image.Resampling.BICUBIC, box=box).convert("RGB")
    light = generator.uniform(0.6 if photograph.mode == "L" else 0.85, 1.0, 3)
    part = part.point((light[:, None] * np.arange(256)).round().astype(int).ravel().tolist())
    return ImageOps.mirror(part) if generator.random() < 0.5 else part


def pose(cut_out: Image.Image, size: tuple[int, int], generator: np.random.Generator) -> Image.Image:
    """An object alone on a transparent picture: its longer side 40 to 90 % of the shorter side, turned a little, mirrored or not, at most
    a tenth of it outside."""
    longest = min(generator.uniform(0.4, 0.9) * min(size), MOST_ENLARGED * max(cut_out.size))
    scale = longest / max(cut_out.size)
    width, height = (max(1, round(side * scale)) for side in cut_out.size)
    turned = cut_out.resize((width, height), Image.Resampling.BICUBIC)
    turned = turned.rotate(generator.uniform(-15, 15), Image.Resampling.BICUBIC, expand=True)
    turned = turned.crop(turned.getchannel("A").getbbox())
    if generator.random() < 0.5:
        turned = ImageOps.mirror(turned)
    place = [round(generator.uniform(-0.1 * own, whole - 0.9 * own)) for whole, own in zip(size, turned.size, strict=True)]
    picture = Image.new("RGBA", size)
    picture.paste(turned, (place[0], place[1]))
    return picture


def blend(behind: Image.Image, object_: Image.Image, generator: np.random.Generator) -> tuple[Pixels, NDArray[np.float32]]:
    """The composite, (height, width, 3), and the opacity of the object in it. The object's light comes some way towards the scene's, and
    its edge is blurred together with what is behind it, so that neither gives it away."""
    below, above = np.asarray(behind, np.float32), np.asarray(object_, np.float32)
    opacity = above[:, :, 3] / np.float32(255)
    share = opacity.sum()
    light = [(layer[:, :, :3].mean(2) * opacity).sum() / share + 1 for layer in (below, above)]
    gain = float(np.clip((light[0] / light[1]) ** 0.3, 0.7, 1.4))
    mixed = below + opacity[:, :, None] * (above[:, :, :3] * gain - below)
    whole = Image.fromarray(np.clip(np.rint(mixed), 0, 255).astype(np.uint8))
    blur = ImageFilter.GaussianBlur(generator.uniform(0.5, 1.2))
    soft = np.asarray(object_.getchannel("A").filter(blur), np.float32) / 255
    edge = np.rint(255 * 4 * soft * (1 - soft)).astype(np.uint8)
    return np.asarray(Image.composite(whole.filter(blur), whole, Image.fromarray(edge))), opacity


def coco(placed: Sequence[tuple[Picture, Place]], ids: Mapping[str, int], size: tuple[int, int]) -> dict[str, object]:
    """COCO's format of detections; a box is [left, top, width, height]."""
    return {
        "info": {"description": HEAD},
        "images": [
            {"id": number, "file_name": f"images/{picture.name}.jpg", "width": size[0], "height": size[1]}
            for number, (picture, _) in enumerate(placed, 1)
        ],
        "annotations": [
            {
                "id": number,
                "image_id": number,
                "category_id": ids[picture.stamp.kind],
                "bbox": list(place.box),
                "area": place.area,
                "iscrowd": 0,
            }
            for number, (picture, place) in enumerate(placed, 1)
        ],
        "categories": [{"id": number, "name": kind} for kind, number in ids.items()],
    }


def readme(ids: Mapping[str, int], per_object: int, size: tuple[int, int], seed: int) -> str:
    return f"""{HEAD}

They are no photographs: objects cut out of photographs by hand, laid over other photographs by a program. Use them to see that training,
evaluation and prediction work; not to claim anything about photographs.

Objects: Debian's package {STAMPS.package} (Tux Paint's stamps, copyright 2002-2022 Bill Kendrick and the contributors that its
documentation names, GPL-2). Backgrounds: scikit-image's sample photographs. What is passed on of this folder falls under GPL-2.

classes/  train, val and test, a folder a class; manifest.csv: file, label, split, group (the object)
masks/    the same pictures, for each a PNG of class ids: {BACKGROUND} background, {AMBIGUOUS} the object's edge, {
        ", ".join(f"{number} {kind}" for kind, number in ids.items())
    };
          boxes.json: the boxes of those masks in COCO's format
No object and no background is in two splits.

Made with: --per-object {per_object} --size {size[0]}x{size[1]} --seed {seed}
"""


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """A new folder that takes the place of `folder` when the block ends, and vanishes when it fails. Raises UsageError for a folder that
    holds anything else than what was made here."""
    folder = folder.expanduser().resolve()
    if folder.exists() and not (folder.is_dir() and is_ours(folder)):
        raise UsageError(f"{printable(folder)} holds something else: give a new folder")
    part, old = (folder.with_name(f".{folder.name}.{os.getpid()}.{what}") for what in ("part", "old"))
    part.mkdir(parents=True)
    try:
        yield part
        if folder.exists():
            folder.rename(old)
        part.rename(folder)
    finally:
        for rest in (part, old):
            shutil.rmtree(rest, ignore_errors=True)


def is_ours(folder: Path) -> bool:
    """Whether a folder is empty, or all that it holds was made here."""
    names = {path.name for path in folder.iterdir()}
    if names - {"classes", "masks", "README.txt"}:
        return False
    return not names or ("README.txt" in names and (folder / "README.txt").read_text(errors="replace").startswith(HEAD))


def link(file: Path, name: Path) -> None:
    """The same file under another name; a copy where the disk has no links."""
    try:
        name.hardlink_to(file)
    except OSError:
        shutil.copyfile(file, name)


if __name__ == "__main__":
    try:
        tyro.cli(main)
    except UserError as error:
        print(f"photos: {printable(error)}", file=sys.stderr)
        sys.exit(error.exit_code)
