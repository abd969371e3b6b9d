"""A data set: classes by name, and splits of images with labels."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from convatlas.data.images.decode import DecodedImage, ImageLike


class ImageSource(Protocol):
    """Images that are read one at a time, in any order."""

    def __len__(self) -> int: ...
    def name(self, index: int) -> str:
        """What to call an image in a report: its file, where it has one."""

    def image(self, index: int) -> ImageLike:
        """Raises UnreadableImage."""


@dataclass(frozen=True)
class ArrayImages:
    """Images of one size in memory: (n, channels, height, width), uint8."""

    array: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.array)

    def name(self, index: int) -> str:
        return f"#{index}"

    def image(self, index: int) -> DecodedImage:
        return DecodedImage(self.array[index].transpose(1, 2, 0))


@dataclass(frozen=True)
class Subset:
    """Some of the images, in an order."""

    images: ImageSource
    indices: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.indices)

    def name(self, index: int) -> str:
        return self.images.name(int(self.indices[index]))

    def image(self, index: int) -> ImageLike:
        return self.images.image(int(self.indices[index]))


@dataclass(frozen=True)
class Split:
    """`keys` hash each sample's content."""

    images: ImageSource
    labels: NDArray[np.int64]
    content_hashes: Sequence[bytes] = ()

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Dataset:
    """`splits` are train, val and test, and further ones that a source publishes. `size` is (height, width) of every image, None where
    they differ. `digest` hashes all that a run reads of it, `quarantined` are the hashes of what was known to be broken and left out."""

    name: str
    classes: tuple[str, ...]
    channels: int
    size: tuple[int, int] | None
    splits: dict[str, Split]
    sha256: str
    hflip_safe: bool = True  # whether a mirrored image is still of its class
    notes: tuple[str, ...] = ()  # what was decided on the way, to be said before a run
    quarantined: tuple[str, ...] = ()
    root: Path | None = None  # the folder where the list of broken samples lives
