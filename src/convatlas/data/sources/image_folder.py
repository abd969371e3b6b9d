"""A folder of images: PATH/class/image, or PATH/{train,val,test}/class/image.

The classes are the folders' names.
"""

from pathlib import Path

import numpy as np

from convatlas.data.sources import content_hash
from convatlas.data.sources.files import FileImages, detect_channels, list_images
from convatlas.data.sources.source import SPLIT_NAMES, RawDataset
from convatlas.errors import UserError, printable
from convatlas.names import encodable


def open_image_folder(path: Path) -> RawDataset:
    """Open the images of a folder. Raises UserError for a path that is no folder."""
    if not path.is_dir():
        raise UserError(
            f"{printable(path)} is not a folder: expected PATH/class/image or PATH/train/class/image"
        )
    split_folders = {
        SPLIT_NAMES[folder.name.lower()]: folder
        for folder in sorted(path.iterdir())
        if folder.is_dir() and folder.name.lower() in SPLIT_NAMES
    }
    images = {split: _images_by_class(folder) for split, folder in (split_folders or {"": path}).items()}
    classes = tuple(sorted(set().union(*images.values())))
    names: list[str] = []
    labels: list[int] = []
    ranges: dict[str, range] = {}
    for split, images_by_class in images.items():
        start = len(names)
        prefix = split_folders[split].relative_to(path) if split else Path()
        for label, name in enumerate(classes):
            class_images = images_by_class.get(name, [])
            names += [str(prefix / name / image) for image in class_images]
            labels += [label] * len(class_images)
        ranges[split] = range(start, len(names))
    files = FileImages(path, names)
    return RawDataset(
        name=encodable(f"folder:{path}"),
        classes=tuple(map(encodable, classes)),
        channels=detect_channels(files),
        images=files,
        labels=np.array(labels, np.int64),
        content_hashes=content_hash.hash_files(path, names),
        splits={split: np.arange(span.start, span.stop) for split, span in ranges.items() if split},
        notes=tuple(
            f"{folder.name} was taken as the {split} split"
            for split, folder in split_folders.items()
            if folder.name != split
        ),
        root=path,
    )


def _images_by_class(folder: Path) -> dict[str, list[str]]:
    """The names of the images in every subfolder that has any."""
    subfolders = sorted(
        subfolder
        for subfolder in folder.iterdir()
        if subfolder.is_dir() and not subfolder.name.startswith(".")
    )
    images = {subfolder.name: list_images(subfolder) for subfolder in subfolders}
    return {name: files for name, files in images.items() if files}
