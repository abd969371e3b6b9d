"""The random numbers of samples: functions of (seed, epoch, sample index), so that a sample is transformed
the same in any batch."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from convatlas.data.transforms import counter_rng


@dataclass(frozen=True)
class SampleRng:
    """Random numbers for samples: the run's seed, the epoch, the samples' indices (n,).

    `stream` makes the numbers of different augmentations independent.
    """

    seed: int
    epoch: int
    indices: NDArray[np.int64]
    stream: int

    def uniforms(self, count: int) -> NDArray[np.float64]:
        """(n, count), uniform in [0, 1)."""
        counters = 64 * self.stream + np.arange(count)
        return counter_rng.uniform(self.seed, self.epoch, self.indices[:, None], counters)

    def normals(self, count: int) -> NDArray[np.float64]:
        """(n, count), standard normal (Box and Muller 1958)."""
        u = self.uniforms(2 * count)
        values: NDArray[np.float64] = np.sqrt(-2 * np.log1p(-u[:, :count])) * np.cos(2 * np.pi * u[:, count:])
        return values

    def integers(self, high: int, column: int = 0) -> Tensor:
        """(n,), uniform integers in [0, high), made from one column of `uniforms`."""
        return torch.from_numpy((self.uniforms(column + 1)[:, column] * high).astype(np.int64))
