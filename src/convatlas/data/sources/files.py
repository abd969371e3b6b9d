"""Images that stay in their files until a batch needs them."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from convatlas.data.images import decode
from convatlas.data.images.decode import EncodedImage, UnreadableImage


@dataclass(frozen=True)
class FileImages:
    """Files under one folder, by their names in it."""

    root: Path
    names: Sequence[str]

    def __len__(self) -> int:
        return len(self.names)

    def name(self, index: int) -> str:
        return str(self.root / self.names[index])

    def image(self, index: int) -> EncodedImage:
        return decode.open_image(self.root / self.names[index])


def list_images(folder: Path) -> list[str]:
    """The image files anywhere below a folder, by name; hidden ones are passed over, links to nothing are not."""
    found: list[str] = []
    for path, folders, names in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        inner = Path(path).relative_to(folder)
        found += [str(inner / name) for name in sorted(names) if is_image_name(name) and _is_file_or_dangling(Path(path, name))]
    return found


def is_image_name(name: str) -> bool:
    return name.lower().endswith(decode.EXTENSIONS) and not name.startswith(".")


def _is_file_or_dangling(file: Path) -> bool:
    return file.is_file() or (file.is_symlink() and not file.exists())


def detect_channels(files: FileImages) -> int:
    """1 where every file is grey, or cannot be read, else 3."""
    for index in range(len(files)):
        try:
            if not decode.is_grayscale(files.image(index)):
                return 3
        except UnreadableImage:
            continue
    return 1
