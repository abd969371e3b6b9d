"""ImageNet's classification set of ILSVRC 2012 (arXiv:1409.0575), in the layouts of its archives and Kaggle.

The training images are PATH/train/WNID/*.JPEG. The validation images lie in such folders too, or flat, such
as ILSVRC2012_val_00000001.JPEG, with one of the published lists of labels. Inception-v3 is evaluated on the
48,238 validation images that are not blacklisted (arXiv:1512.00567, sec. 10): if the blacklist exists, they
are a split of their own. Classes are WNIDs in alphabetical order, the usual numbering.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from convatlas.data.sources import content_hash
from convatlas.data.sources.files import FileImages, missing_data
from convatlas.data.sources.imagenet_labels import (
    BLACKLISTS,
    LABEL_READERS,
    LIST_FOLDERS,
    WNID,
    find_list,
    image_number,
    read_numbers,
)
from convatlas.data.sources.labels import encode_labels
from convatlas.data.sources.passed_over import NO_CLASS, NO_IMAGES, PassedOver
from convatlas.data.sources.source import RawDataset
from convatlas.data.sources.walk import list_images
from convatlas.errors import UserError, printable

# as the archives of 2012 unpack; Kaggle's; the archive of 2015; and in the folder of one of these
LAYOUTS = ("", "ILSVRC/Data/CLS-LOC", "ILSVRC2015/Data/CLS-LOC", "Data/CLS-LOC")
NUM_VALIDATION = 50_000


def open_imagenet(path: Path) -> RawDataset:
    """Open the images of a folder.

    Raises UserError for a file that is missing, and says where it was looked for.
    """
    if not path.is_dir():
        raise missing_data(path, "is not a folder", "that of ILSVRC 2012")
    layout = next((layout for layout in LAYOUTS if _has_train_and_val(path / layout)), None)
    if layout is None:
        places = ", ".join(str(Path(layout, "{train,val}")) for layout in LAYOUTS)
        raise UserError(
            f"{printable(path)} does not hold ILSVRC 2012: looked for {places}, with a folder for every WNID "
            "in train"
        )
    train_folder = Path(layout, "train")
    val_folder = Path(layout, "val")
    passed_over: list[PassedOver] = []
    by_folder, flat = _list_images(path, train_folder, passed_over)
    passed_over += [PassedOver(name, NO_CLASS) for name in flat]
    wnids, names = _by_wnid(path / train_folder, by_folder)
    if not names:
        raise UserError(
            f"{printable(path / train_folder)} has no folders of images: expected one for every WNID, such "
            "as n01440764"
        )
    val_wnids, val_names, max_number = _list_val(path, val_folder, passed_over)
    val_indices = np.arange(len(names), len(names) + len(val_names))
    splits = {"train": np.arange(len(names)), "val": val_indices, "test": val_indices}
    notes = [
        "the labels of ILSVRC's test images are not published: val and test are both its validation images"
    ]
    if blacklist := find_list(path, BLACKLISTS):
        allowed = _not_blacklisted(val_names, blacklist, max_number, path)
        splits["nonblacklisted"] = val_indices[allowed]
        notes.append(
            f"nonblacklisted are the {int(allowed.sum()):,} of {len(allowed):,} validation images that "
            f"{blacklist.name} does not name"
        )
    classes, labels = encode_labels(wnids + val_wnids)
    names += val_names
    return RawDataset(
        name=f"imagenet:{path}",
        classes=classes,
        channels=3,  # a few images are grey or CMYK
        images=FileImages(path, names),
        labels=labels,
        content_hashes=content_hash.hash_files(path, names),
        splits=splits,
        notes=tuple(notes),
        passed_over=tuple(passed_over),
        published=True,
        root=path,
    )


def _has_train_and_val(folder: Path) -> bool:
    return (folder / "train").is_dir() and (folder / "val").is_dir()


def _list_images(
    path: Path, folder: Path, passed_over: list[PassedOver]
) -> tuple[dict[str, list[str]], list[str]]:
    """The images in each subfolder of a folder, and those directly in it; names relative to `path`."""
    listing = list_images(path / folder)
    passed_over += [entry._replace(name=f"{folder}/{entry.name}") for entry in listing.passed_over]
    empty = [entry.name for entry in listing.passed_over if entry.reason == NO_IMAGES]
    by_folder: dict[str, list[str]] = {name: [] for name in empty if "/" not in name}
    flat = []
    for name in listing.images:
        subfolder, slash, file = name.partition("/")
        if not slash:
            flat.append(f"{folder}/{name}")
        elif "/" in file:
            passed_over.append(PassedOver(f"{folder}/{name}", "in a folder below that of its WNID"))
        else:
            by_folder.setdefault(subfolder, []).append(f"{folder}/{name}")
    return by_folder, flat


def _by_wnid(folder: Path, by_folder: dict[str, list[str]]) -> tuple[list[str], list[str]]:
    """The WNIDs and the names of the images in folders of WNIDs."""
    wnids: list[str] = []
    names: list[str] = []
    for wnid, images in sorted(by_folder.items()):
        if not WNID.fullmatch(wnid):
            raise UserError(
                f"{printable(folder)} holds {printable(wnid)}: expected folders named by WNIDs, such "
                "as n01440764; with other names use folder:PATH"
            )
        names += images
        wnids += [wnid] * len(images)
    return wnids, names


def _list_val(path: Path, folder: Path, passed_over: list[PassedOver]) -> tuple[list[str], list[str], int]:
    """The WNIDs and the names of the validation images, and the largest number that a blacklist may name."""
    by_folder, flat = _list_images(path, folder, passed_over)
    wnids, names = _by_wnid(path / folder, by_folder)
    flat_names = [name.rpartition("/")[2] for name in flat]
    if names and flat_names:
        raise UserError(
            f"{printable(path / folder)} holds {len(flat_names):,} images beside its folders of WNIDs, "
            f"{printable(flat_names[0])} first: move each into the folder of its class"
        )
    if names:
        return wnids, names, NUM_VALIDATION
    wnids, names = _label_flat_images(path, folder, flat_names)
    return wnids, names, len(names)


def _label_flat_images(path: Path, folder: Path, images: Sequence[str]) -> tuple[list[str], list[str]]:
    """The WNIDs and the names of flat images, from a list with a label for every number."""
    names = _names_by_number(path / folder, images)
    file = find_list(path, tuple(LABEL_READERS))
    if file is None:
        raise UserError(
            f"the images in {printable(path / folder)} lack their labels: expected one of "
            f"{', '.join(LABEL_READERS)} (with meta.mat); looked in {printable(path)} and, in it, in "
            f"{', '.join(LIST_FOLDERS[1:])}"
        )
    wnids = LABEL_READERS[file.name](file)
    numbers = range(1, len(wnids) + 1)
    missing = [number for number in numbers if number not in names]
    unlabelled = [number for number in names if number not in numbers]
    totals = f"(it has {len(images):,} images, and the list {len(wnids):,} labels)"
    if missing:
        raise UserError(
            f"{printable(path / folder)} lacks {_count_from_first(missing)}, which {file.name} labels: "
            f"unpack it again {totals}"
        )
    if unlabelled:
        raise UserError(
            f"{printable(path / folder)} holds {_count_from_first(unlabelled)}, which {file.name} does not "
            f"label {totals}"
        )
    return wnids, [f"{folder}/{names[number]}" for number in numbers]


def _count_from_first(numbers: Sequence[int]) -> str:
    return f"{len(numbers):,} images, ILSVRC2012_val_{numbers[0]:08} first"


def _names_by_number(folder: Path, images: Sequence[str]) -> dict[int, str]:
    """The names of flat validation images by their numbers."""
    expected = "expected ILSVRC2012_val_00000001.JPEG and so on, or a folder for every WNID"
    if not images:
        raise UserError(f"{printable(folder)} holds no images: {expected}")
    names: dict[int, str] = {}
    for name in images:
        number = image_number(name)
        if number is None:
            raise UserError(f"{printable(folder)} holds {printable(name)}: {expected}")
        if number in names:
            raise UserError(
                f"{printable(folder)} holds {printable(names[number])} and {printable(name)}, which have one "
                "number: keep one of them"
            )
        names[number] = name
    return names


def _not_blacklisted(names: Sequence[str], blacklist: Path, max_number: int, path: Path) -> NDArray[np.bool_]:
    """Whether each validation image is not on the blacklist. Raises UserError for images without a number."""
    blacklisted = set(read_numbers(blacklist, max_number))
    numbers = [image_number(name) for name in names]
    if None in numbers:
        unknown = names[numbers.index(None)]
        raise UserError(
            f"{printable(path / unknown)} cannot be looked up in {blacklist.name}: expected the published "
            "names, such as ILSVRC2012_val_00000001.JPEG; restore them, or remove the blacklist"
        )
    return np.array([number not in blacklisted for number in numbers], bool)
