"""ImageNet's classification set of ILSVRC 2012 (arXiv:1409.0575), as its archives unpack or as Kaggle has laid it out.

PATH/train/WNID/*.JPEG, and val either in such folders or flat, ILSVRC2012_val_00000001.JPEG, with one of the published lists of labels.
Inception-v3 is measured on the 48,238 validation images that are not blacklisted (arXiv:1512.00567, sec. 10): where the blacklist is
there, they are a split of their own. Classes are WNIDs in their order, as the field numbers them.
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from convatlas.data.sources import content_hash
from convatlas.data.sources.files import FileImages, is_image_name
from convatlas.data.sources.labels import encode_labels
from convatlas.data.sources.source import RawDataset
from convatlas.errors import UserError, printable

LAYOUTS = ("", "ILSVRC/Data/CLS-LOC", "Data/CLS-LOC")  # as unpacked, and Kaggle's
LISTS = ("", "ILSVRC2012_devkit_t12/data", "ILSVRC2014_devkit/data", "ILSVRC2015/devkit/data", "ILSVRC/devkit/data", "val")
BLACKLISTS = ("ILSVRC2014_clsloc_validation_blacklist.txt", "ILSVRC2015_clsloc_validation_blacklist.txt")
NUM_VALIDATION = 50_000  # validation images
MAX_BYTES = 16 << 20  # of a list
_WNID = re.compile(r"n[0-9]{8}")
_NUMBER = re.compile(r"ILSVRC2012_val_([0-9]{8})(?![0-9])")
Listed = tuple[list[str], list[str]]  # of every image its WNID, and its name


def open_imagenet(path: Path) -> RawDataset:
    """Raises UserError naming what is missing and where it was looked for."""
    layout = next((layout for layout in LAYOUTS if (path / layout / "train").is_dir() and (path / layout / "val").is_dir()), None)
    if layout is None:
        looked = ", ".join(str(Path(layout, "{train,val}")) for layout in LAYOUTS)
        raise UserError(f"{printable(path)} does not hold ILSVRC 2012: looked for {looked}, with a folder for every WNID in train")
    train, val = Path(layout, "train"), Path(layout, "val")
    wnids, names = _folders(path, train)
    if not names:
        raise UserError(f"{printable(path / train)} has no folders of images: expected one for every WNID, such as n01440764")
    val_wnids, val_names = _folders(path, val)
    flat = not val_names
    if flat:
        val_wnids, val_names = _flat(path, val)
    validation = np.arange(len(names), len(names) + len(val_names))
    parts = {"train": np.arange(len(names)), "val": validation, "test": validation}
    notes = ["the labels of ILSVRC's test images are not published: val and test are both its validation images"]
    blacklist = _first_file(path, BLACKLISTS)
    if blacklist:
        out = set(_numbers(blacklist, len(val_names) if flat else NUM_VALIDATION))
        left = np.array([_number(name) not in out for name in val_names], bool)
        parts["nonblacklisted"] = validation[left]
        notes.append(f"nonblacklisted are the {int(left.sum()):,} of {len(left):,} validation images that {blacklist.name} does not name")
    classes, labels = encode_labels(wnids + val_wnids)
    names += val_names
    return RawDataset(
        name=f"imagenet:{path}",
        classes=classes,
        channels=3,  # though some are grey and a few CMYK
        images=FileImages(path, names),
        labels=labels,
        content_hashes=content_hash.hash_files(path, names),
        splits=parts,
        notes=tuple(notes),
        root=path,
    )


def _folders(path: Path, part: Path) -> Listed:
    """The images in a part's folders of WNIDs."""
    wnids: list[str] = []
    names: list[str] = []
    with os.scandir(path / part) as entries:
        found = sorted(entry.name for entry in entries if not entry.name.startswith(".") and entry.is_dir())
    for wnid in found:
        if not _WNID.fullmatch(wnid):
            what = "expected folders named by WNIDs, such as n01440764; with other names use folder:PATH"
            raise UserError(f"{printable(path / part)} holds {printable(wnid)}: {what}")
        names += [f"{part}/{wnid}/{name}" for name in _images(path / part / wnid)]
        wnids += [wnid] * (len(names) - len(wnids))
    return wnids, names


def _images(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if is_image_name(entry.name) and not entry.is_dir())


def _flat(path: Path, part: Path) -> Listed:
    """The validation images, told by their numbers from a list of labels that has one for each of them."""
    images = {_number(name): name for name in _images(path / part)}
    if None in images or not images:
        what = f"holds {printable(images[None])}" if images else "holds no images"
        raise UserError(f"{printable(path / part)} {what}: expected ILSVRC2012_val_00000001.JPEG and so on, or a folder for every WNID")
    file = _first_file(path, tuple(READERS))
    if file is None:
        looked = f"looked in {printable(path)} and, in it, in {', '.join(LISTS[1:])}"
        raise UserError(
            f"the images in {printable(path / part)} lack their labels: expected one of {', '.join(READERS)} (with meta.mat); {looked}"
        )
    wnids = READERS[file.name](file)
    numbers = range(1, len(wnids) + 1)
    lacking = [number for number in numbers if number not in images]
    beyond = [number for number in images if number not in numbers]
    if lacking or beyond:
        named = f"ILSVRC2012_val_{(lacking or beyond)[0]:08}"
        many = f"{len(lacking or beyond):,} images, {named} first"
        what = f"lacks {many}, which {file.name} labels: unpack it again" if lacking else f"holds {many}, which {file.name} does not label"
        raise UserError(f"{printable(path / part)} {what} (it has {len(images):,} images, and the list {len(wnids):,} labels)")
    return wnids, [f"{part}/{images[number]}" for number in numbers]


def _number(name: str) -> int | None:
    found = _NUMBER.match(name.rpartition("/")[2])
    return int(found[1]) if found else None


def _first_file(path: Path, names: Sequence[str]) -> Path | None:
    return next((path / folder / name for name in names for folder in LISTS if (path / folder / name).is_file()), None)


def _synset_labels(file: Path) -> list[str]:
    return [_wnid(line, file, number) for number, line in enumerate(_lines(file), 1)]


def _kaggle(file: Path) -> list[str]:
    wnids: dict[int, str] = {}
    for at, line in enumerate(_lines(file)[1:], 2):
        image, _, prediction = line.partition(",")
        number = _number(image)
        if number is None or number in wnids:
            raise UserError(f"{printable(file)}, line {at}: {printable(image[:40])!r}: expected every ILSVRC2012_val_00000001 once")
        wnids[number] = _wnid(prediction.partition(" ")[0], file, at)
    lacking = next((number for number in range(1, len(wnids) + 1) if number not in wnids), None)
    if lacking:
        raise UserError(f"{printable(file)} has no line for ILSVRC2012_val_{lacking:08}: get the file again")
    return [wnids[number] for number in range(1, len(wnids) + 1)]


def _devkit(file: Path) -> list[str]:
    meta = file.with_name("meta.mat")
    if not meta.is_file():
        raise UserError(
            f"{printable(file)} needs {meta.name} beside it, which says what its numbers mean: both are in the devkit's data folder"
        )
    wnids = _synsets(meta)
    numbers = _numbers(file, max(wnids, default=0))
    strange = next((number for number in numbers if number not in wnids), None)
    if strange:
        raise UserError(f"{printable(meta)} has no synset {strange}, which {file.name} names: take both from one devkit")
    return [wnids[number] for number in numbers]


def _synsets(file: Path) -> dict[int, str]:
    """WNIDs by ILSVRC2012_ID."""
    from scipy.io import loadmat

    try:
        _check_size(file)
        rows = np.atleast_1d(loadmat(file, variable_names=["synsets"], squeeze_me=True)["synsets"])
        return {int(row["ILSVRC2012_ID"]): _wnid(str(row["WNID"]), file, at) for at, row in enumerate(rows, 1)}
    except UserError:
        raise
    except Exception as error:  # what it raises on damaged bytes is not said
        raise UserError(f"{printable(file)} is not the devkit's list of synsets ({printable(error)}): get it again") from None


READERS = {
    "imagenet_2012_validation_synset_labels.txt": _synset_labels,
    "LOC_val_solution.csv": _kaggle,
    "ILSVRC2012_validation_ground_truth.txt": _devkit,
}


def _wnid(text: str, file: Path, at: int) -> str:
    if not _WNID.fullmatch(text):
        raise UserError(f"{printable(file)}, line {at}: {printable(text[:40])!r}: expected a WNID such as n01440764")
    return text


def _numbers(file: Path, most: int) -> list[int]:
    """One number a line, from 1."""
    lines = _lines(file)
    for at, line in enumerate(lines, 1):
        if not re.fullmatch("[0-9]{1,8}", line) or not 0 < int(line) <= most:
            raise UserError(f"{printable(file)}, line {at}: {printable(line[:40])!r}: expected a whole number from 1 to {most:,}")
    return [int(line) for line in lines]


def _lines(file: Path) -> list[str]:
    _check_size(file)
    return [line.strip() for line in file.read_text("utf-8", errors="replace").rstrip().splitlines()]


def _check_size(file: Path) -> None:
    if file.stat().st_size > MAX_BYTES:
        raise UserError(f"{printable(file)} is larger than {MAX_BYTES:,} bytes, and so is not the published list: get it again")
