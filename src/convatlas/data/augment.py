"""Augmentations as records, applied to whole uint8 batches. Every parameter is drawn from (seed, epoch, sample index)."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from convatlas.data import randomness
from convatlas.storage.records import Record


@dataclass(frozen=True)
class Draw:
    """Who draws: the run's seed, the epoch, the samples' indices (n,). `stream` tells one augmentation from the next."""

    seed: int
    epoch: int
    indices: NDArray[np.int64]
    stream: int

    def uniform(self, which: int = 0) -> NDArray[np.float64]:
        """(n,), in [0, 1)."""
        return randomness.uniform(self.seed, self.epoch, self.indices, 64 * self.stream + which)

    def uniforms(self, count: int) -> NDArray[np.float64]:
        """(n, count), in [0, 1)."""
        return randomness.uniform(self.seed, self.epoch, self.indices[:, None], 64 * self.stream + np.arange(count))

    def integers(self, below: int, which: int = 0) -> Tensor:
        return torch.from_numpy(randomness.integers(below, self.seed, self.epoch, self.indices, 64 * self.stream + which))


class PadCrop(Record, frozen=True, tag=True):
    """Pad with zeros on every side, then crop a square of the old size at random (He 2015, sec. 4.2: 4 pixels)."""

    pad: int = 4

    def __call__(self, images: Tensor, draw: Draw) -> Tensor:
        n, _, h, w = images.shape
        windows = F.pad(images, [self.pad] * 4).unfold(2, h, 1).unfold(3, w, 1)  # (n, c, 2 pad + 1, 2 pad + 1, h, w), a view
        return windows[torch.arange(n), :, draw.integers(2 * self.pad + 1), draw.integers(2 * self.pad + 1, 1)]


class Flip(Record, frozen=True, tag=True):
    """Left and right exchanged for half of the samples."""

    def __call__(self, images: Tensor, draw: Draw) -> Tensor:
        return torch.where(draw.integers(2).bool()[:, None, None, None], images.flip(3), images)


Augmentation = PadCrop | Flip
