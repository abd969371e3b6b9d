"""What several `data` commands print: classes by split, and sizes of images."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, arg

from convatlas.cli.output import print_table
from convatlas.errors import printable

if TYPE_CHECKING:
    from convatlas.data import Dataset
    from convatlas.data.sources.source import RawDataset

MAX_CLASSES = 24  # printed one by one

DataName = Annotated[
    Positional[str],
    arg(metavar="DATA", help="As in train --data: folder:PATH, manifest:FILE, fashion-mnist, ..."),
]


def print_classes(classes: Mapping[str, Mapping[str, int]]) -> None:
    """Print the images by class and split: all classes, or the smallest, largest and missing ones."""
    splits = next(iter(classes.values()), {})
    rows = list(classes.items())
    if len(rows) > MAX_CLASSES:
        by_size = sorted(rows, key=lambda row: sum(row[1].values()))
        count = MAX_CLASSES // 3
        incomplete = [row for row in by_size[count:-count] if not all(row[1].values())]
        rows = [*by_size[:count], *incomplete[:count], *by_size[-count:]]
        print(f"{len(classes):,} classes: the smallest, those missing in a split, the largest")
    cells = [(name, *(f"{count:,}" for count in counts.values())) for name, counts in rows]
    print_table(("class", *splits), cells, right=tuple(splits))


def data_notes(dataset: "Dataset | RawDataset") -> list[str]:
    """What to tell about a data set: what is passed over, decisions, warnings."""
    from convatlas.data.sources.passed_over import describe_passed_over

    passed_over = dataset.passed_over
    text = passed_over if isinstance(passed_over, str) else describe_passed_over(passed_over)
    notes = [f"passed over: {text}"] if text else []
    return [printable(note) for note in (*notes, *dataset.notes, *dataset.warnings)]


def sizes_document(sizes: Mapping[str, Any]) -> dict[str, Any]:
    return {name: size._asdict() for name, size in sizes.items()}


def size_range(sizes: Mapping[str, Any]) -> str:
    """The sizes of a set's images in words."""
    if not sizes:
        return "no image can be read"
    smallest, median, largest = (sizes[name] for name in ("smallest", "median", "largest"))
    if smallest[:2] == largest[:2]:
        return f"all {smallest.width}x{smallest.height}"
    return (
        f"smallest {smallest.width}x{smallest.height} ({smallest.file}), median "
        f"{median.width}x{median.height}, largest {largest.width}x{largest.height} ({largest.file})"
    )
