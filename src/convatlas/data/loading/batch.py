"""A batch of images with their labels."""

from typing import NamedTuple

from torch import Tensor

from convatlas.data.transforms.preprocessing import UnreadableSample


class Batch(NamedTuple):
    images: Tensor  # (n, c, h, w), uint8
    targets: Tensor  # (n,), int64
    indices: Tensor  # (n,), int64: which samples these are
    unreadable: list[UnreadableSample]  # samples that belong here but cannot be read
