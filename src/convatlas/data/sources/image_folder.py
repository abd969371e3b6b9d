"""A folder of images: PATH/class/image, or PATH/{train,val,test}/class/image.

The classes are the folders' names, in Unicode's composed form (NFC): a name has the same letters on every
system.
"""

import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from convatlas.data.sources import content_hash
from convatlas.data.sources.files import FileImages, detect_channels, missing_data
from convatlas.data.sources.folder_layout import EXPECTED, find_layout
from convatlas.data.sources.source import RawDataset
from convatlas.errors import UserError, printable
from convatlas.names import encodable


def open_image_folder(path: Path) -> RawDataset:
    """Open the images of a folder.

    Raises UserError for a path that is no folder, and for one whose splits and classes are unclear.
    """
    if not path.is_dir():
        raise missing_data(path, "is not a folder", EXPECTED)
    layout = find_layout(path)
    notes = list(layout.notes)
    folder_of: dict[str, str] = {}  # the first folder of each class
    for folder in sorted(set().union(*layout.images.values())):
        name = unicodedata.normalize("NFC", folder)
        if folder_of.setdefault(name, folder) != folder:
            notes.append(f"two folders are named {name}, in different Unicode forms: they are one class")
    classes = tuple(sorted(folder_of))
    class_names = _class_names(classes, path)
    index_of = {name: index for index, name in enumerate(classes)}
    names: list[str] = []
    labels: list[int] = []
    splits = {}
    for split, images_by_folder in layout.images.items():
        start = len(names)
        for folder in sorted(images_by_folder, key=lambda name: unicodedata.normalize("NFC", name)):
            names += images_by_folder[folder]
            labels += [index_of[unicodedata.normalize("NFC", folder)]] * len(images_by_folder[folder])
        if split:
            splits[split] = np.arange(start, len(names))
    files = FileImages(path, names)
    return RawDataset(
        name=encodable(f"folder:{path}"),
        classes=class_names,
        channels=detect_channels(files),
        images=files,
        labels=np.array(labels, np.int64),
        content_hashes=content_hash.hash_files(path, names),
        splits=splits,
        notes=tuple(map(printable, notes)),
        passed_over=tuple(layout.passed_over),
        hint=layout.hint,
        root=path,
    )


def _class_names(folders: Sequence[str], path: Path) -> tuple[str, ...]:
    """The names of the classes. Raises UserError for two folders that are equal once they are escaped."""
    names = tuple(map(encodable, folders))
    for name, count in Counter(names).items():
        if count > 1:
            raise UserError(
                f"{printable(path)} holds two folders of classes that are written {printable(name)}, one "
                "with a byte that is no UTF-8 and one with these very letters: rename one of them"
            )
    return names
