"""Bootstrap over images: how often each counts in a resample, and the interval of a score's values."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from convatlas.boxes.arrays import Array

RESAMPLES = 1000


def image_draws(num_images: int, resamples: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """How often each image counts (num_images,) in each of `resamples` draws with replacement: the same for
    all scores of the same images, so that their differences are those on the same draws."""
    rng = np.random.default_rng(seed)
    for _ in range(resamples):
        yield np.bincount(rng.integers(0, num_images, num_images), minlength=num_images)


def interval(values: Array) -> tuple[float, float]:
    """The 95 % percentile interval of a score's values (resamples,). Resamples in which it is undefined are
    left out; NaN if it is in all of them."""
    defined = values[np.isfinite(values)]
    if not len(defined):
        return float("nan"), float("nan")
    low, high = np.percentile(defined, [2.5, 97.5])
    return float(low), float(high)
