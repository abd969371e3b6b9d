"""Images that stay in their files until a batch needs them."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from convatlas.data.images import decode
from convatlas.data.images.decode import EncodedImage, UnreadableImage


@dataclass(frozen=True)
class FileImages:
    """Image files below a folder; `names` are relative to it."""

    root: Path
    names: Sequence[str]

    def __len__(self) -> int:
        return len(self.names)

    def name(self, index: int) -> str:
        return str(self.root / self.names[index])

    def image(self, index: int) -> EncodedImage:
        return decode.open_image(self.root / self.names[index])


def list_images(folder: Path) -> list[str]:
    """The names of all image files below a folder, in alphabetical order within each folder.

    Hidden files and folders are skipped. Links to files that do not exist are listed: reading them reports
    them.
    """
    images: list[str] = []
    for path, folders, names in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        relative = Path(path).relative_to(folder)
        images += [
            str(relative / name)
            for name in sorted(names)
            if is_image_name(name) and _is_file_or_dangling_link(Path(path, name))
        ]
    return images


def is_image_name(name: str) -> bool:
    """Whether a file's name has an image extension and is not hidden."""
    return name.lower().endswith(decode.EXTENSIONS) and not name.startswith(".")


def _is_file_or_dangling_link(file: Path) -> bool:
    return file.is_file() or (file.is_symlink() and not file.exists())


def detect_channels(files: FileImages) -> int:
    """1 if every readable image is grayscale, else 3."""
    for index in range(len(files)):
        try:
            if not decode.is_grayscale(files.image(index)):
                return 3
        except UnreadableImage:
            continue
    return 1
