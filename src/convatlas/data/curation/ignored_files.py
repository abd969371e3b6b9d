"""Files and folders in a folder of photographs that are not used as images, each with the reason."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from convatlas.data.images.decode import EXTENSIONS
from convatlas.data.sources.files import is_image_name
from convatlas.data.sources.quarantine import NAME


def ignored_files(root: Path, names: Iterable[str]) -> Iterator[tuple[Path, str]]:
    """Yield (path, reason) for everything below `root` that is not among the used files `names`.

    A folder without any used file is reported itself, not its content.
    """
    used_files = set(names)
    used_folders = {parent for name in used_files for parent in _parents(name)}
    for path, folders, files in os.walk(root, followlinks=True):
        parent = Path(path).relative_to(root)
        for folder in sorted(folders):
            if folder.startswith("."):
                yield root / parent / folder, "hidden"
            elif str(parent / folder) not in used_folders:
                yield root / parent / folder, "a folder without images of a class"
        folders[:] = sorted(folder for folder in folders if str(parent / folder) in used_folders)
        for name in sorted(files):
            if str(parent / name) not in used_files and name != NAME:
                yield root / parent / name, _reason(root / parent / name)


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
