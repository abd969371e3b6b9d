"""A data set: class names, and splits of images with labels."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from convatlas.data.images.decode import DecodedImage, ImageLike
from convatlas.data.images.deep_pixels import ValueRange
from convatlas.data.mask import MaskSource


class ImageSource(Protocol):
    """Images that are read one at a time, in any order."""

    def __len__(self) -> int: ...
    def name(self, index: int) -> str:
        """The name of an image in reports: its file, if it has one."""

    def image(self, index: int) -> ImageLike:
        """The image at `index`. Raises UnreadableImage."""


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
    """The images at `indices` of another source, in that order."""

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
    """Images with labels (n,). `content_hashes` has one hash for each sample, or is empty.

    With `masks`, these are the targets, and a label is the class with most pixels beside the background.
    """

    images: ImageSource
    labels: NDArray[np.int64]
    content_hashes: Sequence[bytes] = ()
    masks: MaskSource | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, indices: NDArray[np.int64]) -> "Split":
        """The samples at `indices`, in that order."""
        images: ImageSource = Subset(self.images, indices)
        if isinstance(self.images, ArrayImages):
            images = ArrayImages(self.images.array[indices])
        hashes = [self.content_hashes[index] for index in indices] if len(self.content_hashes) else ()
        masks = None if self.masks is None else self.masks.subset(indices)
        return Split(images, self.labels[indices], hashes, masks)

    def images_by_class(self, num_classes: int) -> NDArray[np.int64]:
        """(classes,): the images of each class, or with masks those that show it."""
        if self.masks is not None:
            shown: NDArray[np.int64] = (self.masks.pixel_counts > 0).sum(axis=0)
            return shown
        return np.bincount(self.labels, minlength=num_classes)

    def class_sizes(self, num_classes: int) -> NDArray[np.int64]:
        """(classes,): the images of each class, or with masks its pixels."""
        if self.masks is not None:
            sizes: NDArray[np.int64] = self.masks.pixel_counts.sum(axis=0)
            return sizes
        return np.bincount(self.labels, minlength=num_classes)


@dataclass(frozen=True)
class Dataset:
    """A data set that is ready for training and evaluation.

    `splits` holds train, val and test, and any further split that the source publishes; of a data set that is
    evaluated only, the published splits and `all`. `size` is the (height, width) of every image, or None if
    they differ. `sha256` hashes everything that a run reads from the data set. `quarantined` lists the
    content hashes of the known broken samples, which are left out.
    """

    name: str
    classes: tuple[str, ...]
    channels: int
    size: tuple[int, int] | None
    splits: dict[str, Split]
    sha256: str
    hflip_safe: bool = True  # whether a mirrored image still belongs to its class
    notes: tuple[str, ...] = ()  # decisions made while opening the data set, to be reported before a run
    warnings: tuple[str, ...] = ()  # facts that change nothing, to be reported but not part of a run
    passed_over: str = ""  # the files and folders of the source that are not used, counted by reason
    quarantined: tuple[str, ...] = ()
    root: Path | None = None  # the folder of the quarantine list
    value_range: ValueRange | None = None  # of pixels of more than 8 bits that were packed

    @property
    def task(self) -> str:
        """What its targets are for: `segmentation` or `classification`."""
        return "segmentation" if any(split.masks for split in self.splits.values()) else "classification"
