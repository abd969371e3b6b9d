"""A batch of images with their labels."""

from typing import NamedTuple

from torch import Tensor

from convatlas.data.transforms.preprocessing import UnreadableSample


class Batch(NamedTuple):
    """Images with their labels, and which samples of the split they are."""

    images: Tensor  # (n, c, h, w), uint8
    targets: Tensor  # (n,), int64
    indices: Tensor  # (n,), int64: the samples' indices in the split
    unreadable: list[UnreadableSample]  # samples of this batch that cannot be read
