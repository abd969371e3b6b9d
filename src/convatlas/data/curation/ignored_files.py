"""What lies in a folder of photographs and is not taken as an image of it, each with the reason."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from convatlas.data.images.decode import EXTENSIONS
from convatlas.data.sources.files import is_image_name
from convatlas.data.sources.quarantine import NAME


def ignored_files(root: Path, names: Iterable[str]) -> Iterator[tuple[Path, str]]:
    """`names` are the files below `root` that were taken. Of a folder that holds none of them, only itself is named."""
    taken = set(names)
    folders_taken = {parent for name in taken for parent in _parents(name)}
    for path, folders, files in os.walk(root, followlinks=True):
        here = Path(path).relative_to(root)
        for folder in sorted(folders):
            if folder.startswith("."):
                yield root / here / folder, "hidden"
            elif str(here / folder) not in folders_taken:
                yield root / here / folder, "a folder of which nothing is taken"
        folders[:] = sorted(folder for folder in folders if str(here / folder) in folders_taken)
        for name in sorted(files):
            if str(here / name) not in taken and name != NAME:
                yield root / here / name, _reason(root / here / name)


def _parents(name: str) -> Iterator[str]:
    while name := os.path.dirname(name):
        yield name


def _reason(file: Path) -> str:
    if file.name.startswith("."):
        return "hidden"
    if not is_image_name(file.name):
        return f"its extension is none of {' '.join(EXTENSIONS)}"
    if not file.is_file():
        return "not a file"
    return "not in the folder of a class"
