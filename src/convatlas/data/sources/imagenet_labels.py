"""The published lists of ILSVRC 2012: the labels of its validation images, and the blacklist."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from convatlas.data.sources.meta_mat import read_structs
from convatlas.errors import UserError, printable
from convatlas.storage.regular_file import read_regular

LIST_FOLDERS = (
    "",
    "ILSVRC2012_devkit_t12/data",
    "ILSVRC2014_devkit/data",
    "ILSVRC2015/devkit/data",
    "ILSVRC/devkit/data",
    "devkit/data",
    "val",
)
BLACKLISTS = (
    "ILSVRC2014_clsloc_validation_blacklist.txt",
    "ILSVRC2015_clsloc_validation_blacklist.txt",
)
MAX_BYTES = 16 << 20  # of a list
WNID = re.compile(r"n[0-9]{8}")
_IMAGE_NUMBER = re.compile(r"ILSVRC2012_val_([0-9]{8})(?![0-9])")


def find_list(path: Path, names: Sequence[str]) -> Path | None:
    """The first of the lists with these names that exists where the archives put them, below `path`."""
    files = (path / folder / name for name in names for folder in LIST_FOLDERS)
    return next((file for file in files if file.is_file()), None)


def image_number(name: str) -> int | None:
    """The number of a validation image, 3 for ILSVRC2012_val_00000003.JPEG; None for other names."""
    match = _IMAGE_NUMBER.match(name.rpartition("/")[2])
    return int(match[1]) if match else None


def read_numbers(file: Path, max_number: int) -> list[int]:
    """The numbers in a file, one a line, from 1 to `max_number`."""
    lines = _read_lines(file)
    for number, line in enumerate(lines, 1):
        if not re.fullmatch("[0-9]{1,8}", line) or not 0 < int(line) <= max_number:
            raise UserError(
                f"{printable(file)}, line {number}: '{printable(line[:40])}': expected a whole number from 1 "
                f"to {max_number:,}"
            )
    return [int(line) for line in lines]


def _read_synset_labels(file: Path) -> list[str]:
    """A WNID a line."""
    return [
        _validate_wnid(line, f"{printable(file)}, line {number}")
        for number, line in enumerate(_read_lines(file), 1)
    ]


def _read_kaggle_solution(file: Path) -> list[str]:
    """Kaggle's CSV, whose rows `image,WNID x1 y1 x2 y2 ...` are in no order."""
    wnids: dict[int, str] = {}
    for number, line in enumerate(_read_lines(file)[1:], 2):
        position = f"{printable(file)}, line {number}"
        image, _, prediction = line.partition(",")
        image_index = image_number(image)
        if image_index is None or image_index in wnids:
            raise UserError(
                f"{position}: '{printable(image[:40])}': expected every ILSVRC2012_val_00000001 once"
            )
        wnids[image_index] = _validate_wnid(prediction.partition(" ")[0], position)
    numbers = range(1, len(wnids) + 1)
    missing = next((number for number in numbers if number not in wnids), None)
    if missing:
        raise UserError(f"{printable(file)} has no line for ILSVRC2012_val_{missing:08}: get the file again")
    return [wnids[number] for number in numbers]


def _read_devkit_labels(file: Path) -> list[str]:
    """The devkit's list, a number of a synset a line; meta.mat beside it has the WNIDs of the synsets."""
    meta = file.with_name("meta.mat")
    if not meta.is_file():
        raise UserError(
            f"{printable(file)} needs {meta.name} beside it, which says what its numbers mean: both are in "
            "the devkit's data folder"
        )
    wnids = _read_synsets(meta)
    numbers = read_numbers(file, max(wnids))
    unknown = next((number for number in numbers if number not in wnids), None)
    if unknown:
        raise UserError(
            f"{printable(meta)} has no synset {unknown}, which {file.name} names: take both from one devkit"
        )
    return [wnids[number] for number in numbers]


def _read_synsets(file: Path) -> dict[int, str]:
    """WNIDs by ILSVRC2012_ID."""
    _check_size(file)
    wnids: dict[int, str] = {}
    try:
        for row, (number, text) in enumerate(
            read_structs(read_regular(file), "synsets", ["ILSVRC2012_ID", "WNID"]), 1
        ):
            if not (isinstance(number, float) and number.is_integer()) or int(number) in wnids:
                raise ValueError(f"row {row} has the number {number!r}")
            wnids[int(number)] = _validate_wnid(str(text), f"{printable(file)}, row {row}")
        if not wnids:
            raise ValueError("it is empty")
    except ValueError as error:
        raise UserError(
            f"{printable(file)} is not the devkit's list of synsets ({printable(error)}): get it again"
        ) from None
    return wnids


LABEL_READERS: dict[str, Callable[[Path], list[str]]] = {
    "imagenet_2012_validation_synset_labels.txt": _read_synset_labels,
    "LOC_val_solution.csv": _read_kaggle_solution,
    "ILSVRC2012_validation_ground_truth.txt": _read_devkit_labels,
}


def _validate_wnid(text: str, position: str) -> str:
    if not WNID.fullmatch(text):
        raise UserError(f"{position}: '{printable(text[:40])}': expected a WNID such as n01440764")
    return text


def _read_lines(file: Path) -> list[str]:
    """The lines of a list without the space around them. Raises UserError for an empty list."""
    _check_size(file)
    lines = read_regular(file).decode("utf-8-sig", errors="replace").rstrip().splitlines()
    if not lines:
        raise UserError(f"{printable(file)} is empty, and so is not the published list: get it again")
    return [line.strip() for line in lines]


def _check_size(file: Path) -> None:
    if file.stat().st_size > MAX_BYTES:
        raise UserError(
            f"{printable(file)} is larger than {MAX_BYTES:,} bytes, and so is not the published list: get it "
            "again"
        )
