"""The order in which an epoch takes the samples of a split, as a function of (seed, epoch) alone."""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from convatlas.data.transforms import counter_rng

Sampling = Literal["uniform", "balanced"]
_SHUFFLE = 0x5A4F  # a counter of its own: the draw of the samples is independent of their places


@dataclass(frozen=True)
class EpochOrder:
    """The order of `labels` (n,) in each epoch: (n,) indices.

    `sampling` "uniform": a permutation. "balanced": as many samples of every class that the labels have,
    within one; a class with fewer samples repeats them all equally often, within one, and one with more takes
    others in every epoch.
    """

    seed: int
    labels: NDArray[np.int64]
    sampling: Sampling = "uniform"

    @cached_property
    def _last(self) -> dict[int, NDArray[np.int64]]:
        return {}

    def __call__(self, epoch: int) -> NDArray[np.int64]:
        """The order of an epoch; the last one is remembered."""
        if epoch not in self._last:
            self._last.clear()
            self._last[epoch] = self._draw(epoch)
        return self._last[epoch]

    def _draw(self, epoch: int) -> NDArray[np.int64]:
        n = len(self.labels)
        order = counter_rng.permutation(self.seed, epoch, n)
        if self.sampling == "uniform":
            return order
        _, class_sizes = np.unique(self.labels, return_counts=True)
        by_class = order[np.argsort(self.labels[order], kind="stable")]
        members = np.split(by_class, np.cumsum(class_sizes)[:-1])
        counts = np.full(len(members), n // len(members))
        extra = np.argsort(counter_rng.random_bits(self.seed, epoch, _SHUFFLE, np.arange(len(members))))
        counts[extra[: n % len(members)]] += 1
        drawn = np.concatenate(
            [samples[np.arange(count) % len(samples)] for samples, count in zip(members, counts, strict=True)]
        )
        return drawn[np.argsort(counter_rng.random_bits(self.seed, epoch, _SHUFFLE, 1, np.arange(n)))]
