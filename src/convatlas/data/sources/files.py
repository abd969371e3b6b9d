"""Images that stay in their files until a batch needs them."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from convatlas.data.images import decode
from convatlas.data.images.decode import EncodedImage
from convatlas.data.images.unreadable import UnreadableImage
from convatlas.errors import MissingDataError, printable


@dataclass(frozen=True)
class FileImages:
    """Image files; `names` are relative to `root`, or absolute."""

    root: Path
    names: Sequence[str]

    def __len__(self) -> int:
        return len(self.names)

    def name(self, index: int) -> str:
        return str(self.root / self.names[index])

    def image(self, index: int) -> EncodedImage:
        return decode.open_image(self.root / self.names[index])


def missing_data(path: Path | str, problem: str, expected: str) -> MissingDataError:
    """The error for a path that is not what a source needs; a relative one is also shown as an absolute."""
    place = "" if os.path.isabs(path) else f" (looked for {printable(os.path.abspath(path))})"
    return MissingDataError(f"{printable(path)} {problem}{place}: expected {expected}")


def detect_channels(files: FileImages) -> int:
    """1 if every readable image is grayscale, else 3."""
    for index in range(len(files)):
        try:
            if not decode.is_grayscale(files.image(index)):
                return 3
        except UnreadableImage:
            continue
    return 1
