"""A folder of photographs: PATH/class/image, or PATH/{train,val,test}/class/image. Classes are the folders' names."""

from pathlib import Path

import numpy as np

from convatlas.data.sources import content_hash
from convatlas.data.sources.files import Files, below, channels_of
from convatlas.data.sources.source import SPLITS, Found
from convatlas.errors import UserError, printable


def find(path: Path) -> Found:
    """Raises UserError for what is no such folder."""
    if not path.is_dir():
        raise UserError(f"{printable(path)} is not a folder: expected PATH/class/image or PATH/train/class/image")
    named = {SPLITS[d.name.lower()]: d for d in sorted(path.iterdir()) if d.is_dir() and d.name.lower() in SPLITS}
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
    files = Files(path, names)
    return Found(
        name=f"folder:{path}",
        classes=classes,
        channels=channels_of(files),
        images=files,
        labels=np.array(labels, np.int64),
        keys=content_hash.of_files(path, names),
        parts={part: np.arange(where.start, where.stop) for part, where in parts.items() if part},
        notes=tuple(f"{named[part].name} was taken as the {part} split" for part in named if named[part].name != part),
        home=path,
    )


def _classes(root: Path) -> dict[str, list[str]]:
    folders = sorted(d for d in root.iterdir() if d.is_dir() and not d.name.startswith("."))
    found = {d.name: below(d) for d in folders}
    return {name: files for name, files in found.items() if files}
