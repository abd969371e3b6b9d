"""Boxes in PASCAL VOC's layout: Annotations/NAME.xml, JPEGImages/, ImageSets/Main/SPLIT.txt.

Its coordinates are those of the first and the last pixel, counted from 1: xmin 1 and xmax 10 is the box from
0 to 10.
"""

import xml.parsers.expat
from collections.abc import Sequence
from pathlib import Path
from xml.etree.ElementTree import Element, TreeBuilder

from convatlas.data.sources.box_annotations import AnnotatedImages, BoxReader, OnBad, image_path
from convatlas.data.sources.labels import sort_classes, validate_class_name
from convatlas.errors import UserError, printable
from convatlas.storage.regular_file import open_user_file, read_user_file

MAX_BYTES = 4 << 20  # of an XML file
MAX_DEPTH = 16
EXPECTED = "expected an annotation file of PASCAL VOC, XML"

Objects = list[tuple[str, tuple[float, ...], str, bool]]  # (position, x1 y1 x2 y2, class, difficult)


def read_voc(
    folder: str | Path,
    split: str | None = None,
    classes: Sequence[str] | None = None,
    on_bad: OnBad = "error",
) -> AnnotatedImages:
    """The images of a folder in VOC's layout: those that ImageSets/Main/SPLIT.txt names, or all that have an
    annotation. `classes`, in order, by default those that occur, sorted. Difficult objects are `ignored`.

    An image with a box that is inverted, without area, more than a pixel outside or not of numbers, of a
    class that is not among `classes`, or whose files do not exist, is an error or (`on_bad="skip"`) left
    out and listed. Raises UserError, also where there are no annotations.
    """
    folder = Path(folder)
    reader = BoxReader(on_bad)
    parsed: list[tuple[Path, tuple[int, int], Objects, str]] = []
    for name in image_names(folder, split):
        file = folder / "Annotations" / f"{name}.xml"
        try:
            parsed.append(read_annotation(file, folder / "JPEGImages"))
        except UserError as error:
            reader.bad(printable(file), str(error).removeprefix(f"{printable(file)}: "))
    if classes is None:
        classes = sort_classes({label for _, _, objects, _ in parsed for _, _, label, _ in objects})
    label_of = {name: label for label, name in enumerate(classes)}
    for image, size, objects, position in parsed:
        boxes = [
            (where, box, label_of.get(name, f"the class '{printable(name)}' is unknown"), difficult)
            for where, box, name, difficult in objects
        ]
        reader.add(image, size, boxes, position)
    return reader.result(classes, printable(folder))


def image_names(folder: Path, split: str | None) -> list[str]:
    """The names of the images, without extension. Raises UserError."""
    annotations = folder / "Annotations"
    if split is None:
        names = sorted(file.stem for file in annotations.glob("*.xml"))
        if not names:
            raise UserError(f"{printable(annotations)} holds no XML files: expected PASCAL VOC's layout")
        return names
    file = folder / "ImageSets" / "Main" / f"{split}.txt"
    lines = read_user_file(file, expected="expected the list of a split's images").splitlines()
    # lists of a single class have a second column, which says whether it is in the image
    names = [line.split()[0].decode(errors="surrogateescape") for line in lines if line.strip()]
    wrong = next((name for name in names if image_path(annotations, name) is None), None)
    if wrong is not None:
        raise UserError(f"{printable(file)} names {printable(wrong)}, which is outside of the data set")
    return names


def read_annotation(file: Path, images: Path) -> tuple[Path, tuple[int, int], Objects, str]:
    """The image file, its size (height, width), and its objects. Raises UserError that names it."""
    name = printable(file)
    with open_user_file(file, expected=EXPECTED) as stream:
        data = stream.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise UserError(f"{name}: more than {MAX_BYTES >> 20} MiB: {EXPECTED}")
    root = parse_xml(data, name)
    image = image_path(images, root.findtext("filename", "").strip())
    if image is None:
        raise UserError(f"{name}: its <filename> does not lead below {printable(images)}")
    size = tuple(int(number(root.find("size"), side, name)) for side in ("height", "width"))
    objects: Objects = []
    for index, element in enumerate(root.findall("object")):
        position = f"{name}, object {index}"
        label = validate_class_name(element.findtext("name", ""), position)
        bounds = element.find("bndbox")  # its own: parts of a person have theirs further down
        x1, y1, x2, y2 = (number(bounds, tag, position) for tag in ("xmin", "ymin", "xmax", "ymax"))
        is_difficult = element.findtext("difficult", "0").strip() not in ("", "0")
        objects.append((position, (x1 - 1, y1 - 1, x2, y2), label, is_difficult))
    return image, (size[0], size[1]), objects, name


def number(element: Element | None, tag: str, position: str) -> float:
    """The number in a child. Raises UserError."""
    text = element.findtext(tag) if element is not None else None
    try:
        value = float((text or "").strip())
    except ValueError:
        value = float("nan")
    if not abs(value) < 1e9:
        shown = "is missing" if text is None else f"is '{printable(text[:40])}'"
        raise UserError(f"{position}: <{tag}> {shown}: expected a number of pixels")
    return value


def parse_xml(data: bytes, name: str) -> Element:
    """The root of an XML document without a document type, so without entities of its own, and without deep
    nesting. Raises UserError."""
    parser = xml.parsers.expat.ParserCreate()
    builder = TreeBuilder()
    depth = 0

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > MAX_DEPTH:
            raise UserError(f"{name}: XML of more than {MAX_DEPTH} levels: {EXPECTED}")
        builder.start(tag, attributes)

    def end(tag: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(tag)

    def refuse(*_: object) -> None:
        raise UserError(f"{name}: XML with a document type (<!DOCTYPE>) is not read: {EXPECTED} without one")

    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(data, True)
    except (xml.parsers.expat.ExpatError, ValueError, LookupError) as error:
        raise UserError(f"{name}: not XML ({printable(error)}): {EXPECTED}") from None
    return builder.close()
