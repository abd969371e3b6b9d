"""The content of a source, before it is split."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from convatlas.data.dataset import ImageSource, Split
from convatlas.data.images.deep_pixels import ValueRange
from convatlas.data.mask import MaskSource
from convatlas.data.sources.passed_over import PassedOver
from convatlas.data.sources.split import ContentHashes

ALL = "all"  # the split of every sample, for evaluation

Splits = dict[str, NDArray[np.int64]]  # the sample indices of each split
# samples of equal content and different classes, or without a usable mask: an error, or left out
Conflicts = Literal["stop", "drop"]


@dataclass(frozen=True, kw_only=True)
class RawDataset:
    """The content of a source, before it is split.

    `splits` holds the sample indices of the splits that the source publishes, and is empty if there are none.
    `groups` has a name for each sample: samples of one group stay in one split. `published`: the labels are
    those of a published benchmark, and are used as they are, whatever is equal to what.
    """

    name: str
    classes: tuple[str, ...]
    channels: int
    images: ImageSource
    labels: NDArray[np.int64]
    content_hashes: ContentHashes
    splits: Mapping[str, NDArray[np.int64]] = field(default_factory=dict)
    groups: Sequence[str] | None = None
    size: tuple[int, int] | None = None  # (height, width) of every image; None if they differ
    val_fraction: float = 0.1  # of train, if there is no validation split
    hflip_safe: bool = True  # whether a mirrored image still belongs to its class
    notes: tuple[str, ...] = ()  # decisions: they belong to a run
    warnings: tuple[str, ...] = ()  # facts that change nothing
    passed_over: tuple[PassedOver, ...] = ()  # files and folders of the source that are not used
    published: bool = False
    hint: str = ""  # what to do if there are too few classes
    root: Path | None = None  # the folder of the quarantine list
    value_range: ValueRange | None = None  # of pixels of more than 8 bits that were packed
    masks: MaskSource | None = None
    broken: Mapping[int, str] = field(default_factory=dict)  # samples that have no usable mask, and why
    mask_notes: Mapping[int, str] = field(default_factory=dict)  # what is odd about usable masks

    def samples(self, indices: NDArray[np.int64]) -> Split:
        """The samples at `indices`, in that order."""
        return Split(self.images, self.labels, masks=self.masks).subset(indices)

    @property
    def targets(self) -> NDArray[np.int64]:
        """(n,): equal for samples with the same label, or with the same mask."""
        if self.masks is None:
            return self.labels
        _, targets = np.unique([digest.hex() for digest in self.masks.hashes], return_inverse=True)
        return targets.astype(np.int64)

    def target_name(self, index: int) -> str:
        """The class of a sample, or which of the data set's masks it has."""
        if self.masks is not None:
            return f"mask {self.masks.hashes[index].hex()[:8]}"
        return self.classes[int(self.labels[index])]
