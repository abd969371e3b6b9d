"""A batch of images with their labels."""

from typing import NamedTuple

from torch import Tensor

from convatlas.data.transforms.preprocessing import Unread


class Batch(NamedTuple):
    images: Tensor  # (n, c, h, w), uint8
    targets: Tensor  # (n,), int64
    indices: Tensor  # (n,), int64: which samples these are
    unread: list[Unread]  # samples that belong here but cannot be read
