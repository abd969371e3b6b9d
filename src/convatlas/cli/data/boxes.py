"""What `data` commands share where a folder holds boxes: by themselves, or beside masks or classes."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from convatlas.cli.data.tables import print_classes, size_range, sizes_document
from convatlas.cli.output import paragraph
from convatlas.errors import UserError, printable

if TYPE_CHECKING:
    from convatlas.data.curation.box_statistics import BoxStatistics
    from convatlas.data.sources.box_folder import BoxDataset
    from convatlas.data.sources.source import RawDataset


class Contents(NamedTuple):
    """What a data set holds: labels of images or pixels, boxes, or both."""

    labels: "RawDataset | None"
    boxes: "BoxDataset | None"


def open_contents(name: str) -> Contents:
    """Open a data set by its name. Images with bad annotations are skipped and listed. Raises as
    `open_source` and `open_boxes`."""
    from convatlas.data import open_source
    from convatlas.data.sources.box_folder import is_box_folder, is_voc_folder, open_boxes
    from convatlas.names import resolve_path

    kind, _, path = name.partition(":")
    folder = Path(resolve_path(path)).expanduser()
    if kind != "folder" or not path or not is_box_folder(folder):
        return Contents(open_source(name), None)
    boxes = open_boxes(name, on_bad="skip")
    if is_voc_folder(folder):
        return Contents(None, boxes)
    try:
        labels = open_source(name)
    except UserError:  # images without classes
        return Contents(None, boxes)
    has_labels = labels.masks is not None or len(labels.classes) > 1
    return Contents(labels if has_labels else None, boxes)


def statistics_document(statistics: "BoxStatistics") -> dict[str, Any]:
    return asdict(statistics) | {"sizes": sizes_document(statistics.sizes)}


def print_statistics(statistics: "BoxStatistics") -> None:
    """Print the objects by class and split, and sizes."""
    print_classes(statistics.classes)
    images, objects = sum(statistics.images.values()), sum(statistics.objects.values())
    print(f"{images:,} images with the boxes of {objects:,} objects; {size_range(statistics.sizes)}")
    if statistics.box_sizes:
        sides = [f"{rank} {width:g}x{height:g}" for rank, (width, height) in statistics.box_sizes.items()]
        print(f"boxes: {', '.join(sides)} pixels")


def print_notes(notes: list[str]) -> None:
    for text in notes:
        paragraph(printable(text), 2)


def next_step(data: str) -> str:
    return (
        f"next: ca.boxes.open_boxes({printable(data)!r}) and ca.boxes.train_detector, as in examples/boxes.py"
    )
