"""A folder of photographs: PATH/class/image, or PATH/{train,val,test}/class/image. Classes are the folders' names."""

from pathlib import Path

import numpy as np

from convatlas.data.sources import content_hash
from convatlas.data.sources.files import FileImages, detect_channels, list_images
from convatlas.data.sources.source import SPLIT_NAMES, RawDataset
from convatlas.errors import UserError, printable


def open_image_folder(path: Path) -> RawDataset:
    """Raises UserError for what is no such folder."""
    if not path.is_dir():
        raise UserError(f"{printable(path)} is not a folder: expected PATH/class/image or PATH/train/class/image")
    named = {SPLIT_NAMES[d.name.lower()]: d for d in sorted(path.iterdir()) if d.is_dir() and d.name.lower() in SPLIT_NAMES}
    listed = {part: _classes(root) for part, root in (named or {"": path}).items()}
    classes = tuple(sorted(set().union(*listed.values())))
    names: list[str] = []
    labels: list[int] = []
    parts: dict[str, range] = {}
    for part, found in listed.items():
        start = len(names)
        for label, name in enumerate(classes):
            inner = found.get(name, [])
            names += [str((named[part].relative_to(path) if part else Path()) / name / file) for file in inner]
            labels += [label] * len(inner)
        parts[part] = range(start, len(names))
    files = FileImages(path, names)
    return RawDataset(
        name=f"folder:{path}",
        classes=classes,
        channels=detect_channels(files),
        images=files,
        labels=np.array(labels, np.int64),
        content_hashes=content_hash.hash_files(path, names),
        splits={part: np.arange(where.start, where.stop) for part, where in parts.items() if part},
        notes=tuple(f"{named[part].name} was taken as the {part} split" for part in named if named[part].name != part),
        root=path,
    )


def _classes(root: Path) -> dict[str, list[str]]:
    folders = sorted(d for d in root.iterdir() if d.is_dir() and not d.name.startswith("."))
    found = {d.name: list_images(d) for d in folders}
    return {name: files for name, files in found.items() if files}
