"""Batches of images with their targets, and the samples that they are made of."""

from typing import NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from convatlas.data.dataset import Split
from convatlas.data.transforms.preprocessing import Preprocessing, UnreadableSample
from convatlas.data.transforms.sample_rng import SampleRng


class Batch(NamedTuple):
    """Images with their targets, and which samples of the split they are.

    Targets are labels (n,), int64; or for every pixel (n, h, w), uint8, class indices, or (n, 2, h, w),
    float32, class indices and the weights of their losses.
    """

    images: Tensor  # (n, c, h, w), uint8
    targets: Tensor
    indices: Tensor  # (n,), int64: the samples' indices in the split
    unreadable: list[UnreadableSample]  # samples of this batch that cannot be read


class Samples(NamedTuple):
    """Images with their targets, as in a `Batch`; those of unreadable samples are zeros."""

    images: Tensor
    targets: Tensor
    unreadable: list[UnreadableSample]


class SampleSource(Protocol):
    """The samples of a split, as a training takes them."""

    @property
    def split(self) -> Split: ...
    @property
    def preprocessing(self) -> Preprocessing: ...
    def subset(self, indices: NDArray[np.int64]) -> Self:
        """The same of the samples at `indices` of the split."""

    def load(self, rng: SampleRng) -> Samples:
        """The samples of `rng`, with its random numbers."""

    def load_plain(self, indices: NDArray[np.int64]) -> Samples:
        """The samples at `indices` of the split, without anything random."""
