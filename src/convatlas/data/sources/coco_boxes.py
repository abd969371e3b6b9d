"""Boxes in COCO's JSON (https://cocodataset.org/#format-data): images, annotations, categories."""

import json
from collections.abc import Hashable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from convatlas.data.sources.box_annotations import AnnotatedImages, BoxReader, OnBad, image_path
from convatlas.data.sources.labels import validate_class_name
from convatlas.errors import UserError, printable
from convatlas.storage.regular_file import read_user_file

T = TypeVar("T")
NO_NUMBERS = (float("nan"),) * 4


class CocoImage(msgspec.Struct):
    id: int
    file_name: str
    width: int
    height: int


class CocoCategory(msgspec.Struct):
    id: int
    name: str


class CocoAnnotation(msgspec.Struct):
    """A box is [left, top, width, height], in pixels of the continuous plane."""

    image_id: int
    category_id: int
    bbox: Any
    id: int | None = None
    iscrowd: int = 0


class CocoDocument(msgspec.Struct):
    images: list[CocoImage]
    categories: list[CocoCategory]
    annotations: list[CocoAnnotation] = []


def read_coco(path: str | Path, images: str | Path | None = None, on_bad: OnBad = "error") -> AnnotatedImages:
    """The images of a COCO file for detection. `images`: the folder that `file_name` is relative to, by
    default the file's own. Classes are the categories in the order of their ids; crowd regions are `ignored`.

    An image with a box that is inverted, without area, more than a pixel outside, or not of four finite
    numbers, of an unknown category, or whose file does not exist, is an error or (`on_bad="skip"`) left out
    and listed; so is an annotation of an unknown image. Raises UserError, also for what is no such file and
    for ids that occur twice.
    """
    path = Path(path)
    name = printable(path)
    root = path.parent if images is None else Path(images)
    document = parse_coco(read_user_file(path, expected="expected a COCO file for detection, JSON"), name)
    unique_ids(document.images, "image", name)
    categories = sorted(document.categories, key=lambda category: category.id)
    unique_ids(categories, "category", name)
    classes = [
        validate_class_name(category.name, f"{name}, category {category.id}") for category in categories
    ]
    repeated = duplicate(classes)
    if repeated is not None:
        raise UserError(f"{name} has two categories named {printable(repeated)}: give each its own name")
    label_of = {category.id: label for label, category in enumerate(categories)}

    reader = BoxReader(on_bad)
    by_image: dict[int, list[tuple[int, CocoAnnotation]]] = {image.id: [] for image in document.images}
    for number, annotation in enumerate(document.annotations):
        if annotation.image_id in by_image:
            by_image[annotation.image_id].append((number, annotation))
        else:
            reader.bad(
                annotation_name(name, number, annotation),
                f"its image_id {annotation.image_id} is not among the images",
            )
    for image in document.images:
        file = image_path(root, image.file_name)
        position = f"{name}, image {image.id} ({printable(image.file_name)})"
        if file is None:
            reader.bad(position, "its file_name does not lead below the folder of the images")
            continue
        boxes = [
            (
                annotation_name(name, number, annotation),
                corners(annotation.bbox),
                label_of.get(
                    annotation.category_id,
                    f"its category_id {annotation.category_id} is not among the categories",
                ),
                annotation.iscrowd != 0,
            )
            for number, annotation in by_image[image.id]
        ]
        reader.add(file, (image.height, image.width), boxes, position)
    return reader.result(classes, name)


def parse_coco(data: bytes, name: str) -> CocoDocument:
    """Raises UserError."""
    try:
        try:
            document = msgspec.json.decode(data)
        except msgspec.DecodeError:
            if b"NaN" not in data and b"Infinity" not in data:
                raise
            document = json.loads(
                data
            )  # Python's own JSON has numbers that are none; boxes with them are bad
        return msgspec.convert(document, CocoDocument)
    except (ValueError, RecursionError) as error:  # msgspec's errors are ValueErrors
        reason = printable(error)[:200]
        raise UserError(f"{name} is no COCO file for detection ({reason})") from None


def corners(bbox: object) -> tuple[float, ...]:
    """x1, y1, x2, y2; NaN for what is not four numbers."""
    if not isinstance(bbox, list) or len(bbox) != 4:
        return NO_NUMBERS
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in bbox):
        return NO_NUMBERS
    try:
        left, top, width, height = map(float, bbox)
    except OverflowError:
        return NO_NUMBERS
    return left, top, left + width, top + height


def annotation_name(name: str, number: int, annotation: CocoAnnotation) -> str:
    of = f"annotation {annotation.id}" if annotation.id is not None else f"annotations[{number}]"
    return f"{name}, {of} (image {annotation.image_id})"


def unique_ids(items: Iterable[CocoImage | CocoCategory], kind: str, name: str) -> None:
    """Raises UserError for an id that two items have: their annotations cannot be told apart."""
    repeated = duplicate(item.id for item in items)
    if repeated is not None:
        raise UserError(f"{name} has two {kind} entries with the id {repeated}: give each its own")


H = TypeVar("H", bound=Hashable)


def duplicate(values: Iterable[H]) -> H | None:
    """The first value that occurs for the second time."""
    known: set[H] = set()
    for value in values:
        if value in known:
            return value
        known.add(value)
    return None
