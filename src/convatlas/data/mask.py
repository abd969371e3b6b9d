"""Masks as targets: the class of every pixel of an image, and the instances that it belongs to."""

import hashlib
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray

IGNORE = 255  # of pixels that are neither trained on nor scored
MAX_CLASSES = 255  # indices of classes and IGNORE fit into 8 bits


class Mask(NamedTuple):
    """The targets of an image's pixels."""

    classes: NDArray[np.uint8]  # (height, width): indices of classes, or IGNORE
    instances: NDArray[np.uint16] | None = None  # (height, width): 0 for what is no instance


class MaskSource(Protocol):
    """The masks of the images of a split or a data set, in the images' order."""

    @property
    def pixel_counts(self) -> NDArray[np.int64]:
        """(n, classes): the pixels of every class in every mask."""

    @property
    def hashes(self) -> tuple[bytes, ...]:
        """A hash of the content of every mask."""

    @property
    def has_instances(self) -> bool:
        """Whether there are instances, of one mask at least."""

    def mask(self, index: int) -> Mask:
        """The mask at `index`. Raises UnreadableImage."""

    def subset(self, indices: NDArray[np.int64]) -> Self:
        """The masks at `indices`, in that order."""


@dataclass(frozen=True)
class ArrayMasks:
    """Masks of one size in memory: (n, height, width), uint8, of `num_classes` classes."""

    array: NDArray[np.uint8]
    num_classes: int

    @property
    def pixel_counts(self) -> NDArray[np.int64]:
        counts = [np.bincount(mask.ravel(), minlength=256)[: self.num_classes] for mask in self.array]
        return np.array(counts, np.int64).reshape(-1, self.num_classes)

    @property
    def hashes(self) -> tuple[bytes, ...]:
        return tuple(hashlib.sha256(mask.tobytes()).digest()[:16] for mask in self.array)

    @property
    def has_instances(self) -> bool:
        return False

    def mask(self, index: int) -> Mask:
        return Mask(self.array[index])

    def subset(self, indices: NDArray[np.int64]) -> Self:
        return replace(self, array=self.array[indices])


@dataclass(frozen=True)
class RelabeledMasks:
    """Masks with other indices of the classes: `indices` (classes,) has the new index of each."""

    masks: MaskSource
    indices: NDArray[np.int64]

    @property
    def pixel_counts(self) -> NDArray[np.int64]:
        counts = np.zeros((len(self.masks.hashes), self.indices.max() + 1), np.int64)
        counts[:, self.indices] = self.masks.pixel_counts
        return counts

    @property
    def hashes(self) -> tuple[bytes, ...]:
        return self.masks.hashes

    @property
    def has_instances(self) -> bool:
        return self.masks.has_instances

    def mask(self, index: int) -> Mask:
        mask = self.masks.mask(index)
        lookup = np.full(256, IGNORE, np.uint8)
        lookup[: len(self.indices)] = self.indices
        lookup[IGNORE] = IGNORE
        return mask._replace(classes=lookup[mask.classes])

    def subset(self, indices: NDArray[np.int64]) -> Self:
        return replace(self, masks=self.masks.subset(indices))
