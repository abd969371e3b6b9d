"""The images of photos.py: photographed objects with their outlines, backgrounds, and how an object is placed
on one."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter, ImageOps

from convatlas.data.images import decode
from convatlas.data.images.decode import Pixels
from convatlas.data.images.unreadable import UnreadableImage
from convatlas.data.sources.content_hash import content_hash
from convatlas.data.sources.split import stratified_holdout
from convatlas.errors import UserError, printable

SPLITS = ("train", "val", "test")
DRAWING_FOLDERS = {"cartoon", "toys", "plastic"}  # folders that the package itself names so
MIN_SIDE = 50  # pixels of a photograph's longer side
MIN_COLORS = 200  # of a photograph
MAX_EQUAL_NEIGHBORS = 0.3  # the share of neighbouring pixels of a photograph that are exactly equal

# The photographs that scikit-image contains, each in one split, with the part (left, top, right, bottom) that
# shows none of the classes of photos.py.
FULL = (0.0, 0.0, 1.0, 1.0)
BACKGROUNDS = {
    "train": {
        "astronaut.png": (0.0, 0.0, 0.66, 1.0),
        "brick.png": FULL,
        "camera.png": FULL,
        "coins.png": FULL,
        "grass.png": FULL,
        "hubble_deep_field.jpg": FULL,
        "ihc.png": FULL,
        "motorcycle_left.png": (0.74, 0.0, 1.0, 0.23),
    },
    "val": {"coffee.png": (0.8, 0.0, 1.0, 1.0), "gravel.png": FULL, "page.png": FULL},
    "test": {
        "moon.png": FULL,
        "retina.jpg": (0.2, 0.15, 0.8, 0.85),
        "rocket.jpg": (0.0, 0.0, 0.46, 1.0),
        "text.png": FULL,
    },
}
MAX_ENLARGEMENT = 3.0  # of stamps and backgrounds


@dataclass(frozen=True)
class Stamp:
    """A photographed object with its outline. Stamps that show the same object, or may, have the same
    `object_name`."""

    name: str  # its file, without the ending
    class_name: str
    object_name: str
    image: Image.Image  # RGBA, without empty borders
    content_hash: bytes  # of the file


def find_stamps(source: Path, class_folders: Mapping[str, Sequence[str]]) -> list[Stamp]:
    """The photographed objects of the classes. Raises UnreadableImage."""
    stamps: list[Stamp] = []
    for class_name, folders in class_folders.items():
        stems_by_folder: dict[Path, list[str]] = {}
        paths = [path for folder in folders for path in (source / folder).rglob("*.png")]
        for path in sorted(paths, key=lambda path: str(path.with_suffix("")).lower()):
            relative = path.relative_to(source)
            if DRAWING_FOLDERS & set(relative.parts) or relative.stem.endswith("_mirror"):
                continue
            file = decode.open_image(path)
            try:
                image = file.pil_image.convert("RGBA")
            except (OSError, ValueError, SyntaxError) as error:
                raise UnreadableImage(str(path), str(error)) from None
            if not is_photograph(np.asarray(image)):
                continue
            stems = stems_by_folder.setdefault(relative.parent, [])
            object_stem = next(
                (stem for stem in stems if may_show_same_object(relative.stem, stem)), relative.stem
            )
            stems.append(relative.stem)
            stamps.append(
                Stamp(
                    name=str(relative.with_suffix("")),
                    class_name=class_name,
                    object_name=str(relative.with_name(object_stem)),
                    image=image.crop(image.getchannel("A").getbbox()),
                    content_hash=content_hash(file.data),
                )
            )
    return stamps


def may_show_same_object(name: str, prefix: str) -> bool:
    """Whether a name is another name with a suffix: `lion` and `lion-2` may show the same lion."""
    name = name.lower()
    prefix = prefix.lower()
    return name.startswith(prefix) and not name[len(prefix) :][:1].isalpha()


def is_photograph(stamp: Pixels) -> bool:
    """Whether a stamp (height, width, 4) is a photograph and no drawing.

    A photograph is large enough, mostly opaque and has many colours; few of its neighbouring pixels are
    exactly equal, and most of a drawing's are.
    """
    opaque = stamp[:, :, 3] == 255
    if max(opaque.shape) < MIN_SIDE or opaque.sum() <= (stamp[:, :, 3] > 0).sum() / 2:
        return False
    colors = stamp[:, :, :3] @ np.array([1 << 16, 1 << 8, 1])
    both_opaque = opaque[:, 1:] & opaque[:, :-1]
    num_equal = ((colors[:, 1:] == colors[:, :-1]) & both_opaque).sum()
    equal_share = num_equal / max(both_opaque.sum(), 1)
    return len(np.unique(colors[opaque])) >= MIN_COLORS and bool(equal_share < MAX_EQUAL_NEIGHBORS)


def split_stamps(stamps: Sequence[Stamp], classes: Iterable[str]) -> dict[str, list[Stamp]]:
    """The stamps by split. Of the objects of each class, 15 % are for validation and 15 % for test.

    Raises UserError for a class with too few objects.
    """
    ordered = sorted(classes)
    labels = np.array([ordered.index(stamp.class_name) for stamp in stamps], np.int64)
    hashes = [stamp.content_hash for stamp in stamps]
    groups = [stamp.object_name for stamp in stamps]
    indices = stratified_holdout(labels, hashes, [0.15, 0.15], groups)
    splits = {
        split: [stamps[i] for i in split_indices]
        for split, split_indices in zip(("val", "test", "train"), indices, strict=True)
    }
    for name, split in itertools.product(ordered, SPLITS):
        if not any(stamp.class_name == name for stamp in splits[split]):
            raise UserError(
                f"too few photographed objects of class {printable(name)}, none is left for {split}: "
                "expected at least a dozen stamps of it"
            )
    return splits


def load_backgrounds(split: str) -> list[Image.Image]:
    """The photographs behind a split's objects, grey or RGB. Raises UserError."""
    package = find_spec("skimage")
    if package is None or package.origin is None:
        raise UserError(
            "the backgrounds come with scikit-image, which is not installed: pip install 'convatlas[sets]'"
        )
    backgrounds = []
    for name, (left, top, right, bottom) in BACKGROUNDS[split].items():
        image = decode.open_image(Path(package.origin).parent / "data" / name)
        width, height = image.width, image.height
        box = (round(left * width), round(top * height), round(right * width), round(bottom * height))
        mode = "L" if decode.is_grayscale(image) else "RGB"
        backgrounds.append(image.pil_image.convert(mode).crop(box))
    return backgrounds


def random_background(
    photographs: Sequence[Image.Image], size: tuple[int, int], rng: np.random.Generator
) -> Image.Image:
    """A random part of a random photograph at a random scale, mirrored or not, in coloured light: stronger
    for grey."""
    photograph = photographs[int(rng.integers(len(photographs)))]
    max_scale = min(photograph.width / size[0], photograph.height / size[1])
    min_scale = min(max_scale, max(0.4 * max_scale, 1 / MAX_ENLARGEMENT))
    scale = rng.uniform(min_scale, max_scale)
    width, height = scale * size[0], scale * size[1]
    left = max(0.0, photograph.width - width) * rng.random()
    top = max(0.0, photograph.height - height) * rng.random()
    box = (left, top, min(left + width, photograph.width), min(top + height, photograph.height))
    image = photograph.resize(size, Image.Resampling.BICUBIC, box=box).convert("RGB")
    light = rng.uniform(0.6 if photograph.mode == "L" else 0.85, 1.0, 3)
    image = image.point((light[:, None] * np.arange(256)).round().astype(int).ravel().tolist())
    return ImageOps.mirror(image) if rng.random() < 0.5 else image


def random_object_layer(stamp: Image.Image, size: tuple[int, int], rng: np.random.Generator) -> Image.Image:
    """An object alone on a transparent image, mirrored or not.

    Its longer side is 40 to 90 % of the image's shorter side, it is rotated by at most 15 degrees, and at
    most a tenth of it lies outside along each axis.
    """
    longer_side = min(rng.uniform(0.4, 0.9) * min(size), MAX_ENLARGEMENT * max(stamp.size))
    scale = longer_side / max(stamp.size)
    width, height = (max(1, round(side * scale)) for side in stamp.size)
    image = stamp.resize((width, height), Image.Resampling.BICUBIC)
    image = image.rotate(rng.uniform(-15, 15), Image.Resampling.BICUBIC, expand=True)
    image = image.crop(image.getchannel("A").getbbox())
    if rng.random() < 0.5:
        image = ImageOps.mirror(image)
    left = round(rng.uniform(-0.1 * image.width, size[0] - 0.9 * image.width))
    top = round(rng.uniform(-0.1 * image.height, size[1] - 0.9 * image.height))
    layer = Image.new("RGBA", size)
    layer.paste(image, (left, top))
    return layer


def blend(
    background: Image.Image, layer: Image.Image, rng: np.random.Generator
) -> tuple[Pixels, NDArray[np.float32]]:
    """The composite, (height, width, 3), and the opacity of the object in it, (height, width).

    The object's brightness moves towards the background's, and its edge is blurred together with the
    background, so that neither reveals the object.
    """
    below = np.asarray(background, np.float32)
    above = np.asarray(layer, np.float32)
    opacity = above[:, :, 3] / np.float32(255)
    area = opacity.sum()
    below_light, above_light = (
        (image[:, :, :3].mean(2) * opacity).sum() / area + 1 for image in (below, above)
    )
    gain = float(np.clip((below_light / above_light) ** 0.3, 0.7, 1.4))
    mixed = below + opacity[:, :, None] * (above[:, :, :3] * gain - below)
    sharp = Image.fromarray(np.clip(np.rint(mixed), 0, 255).astype(np.uint8))
    blur = ImageFilter.GaussianBlur(rng.uniform(0.5, 1.2))
    soft_opacity = np.asarray(layer.getchannel("A").filter(blur), np.float32) / 255
    edge = np.rint(255 * 4 * soft_opacity * (1 - soft_opacity)).astype(np.uint8)
    composite = Image.composite(sharp.filter(blur), sharp, Image.fromarray(edge))
    return np.asarray(composite), opacity
