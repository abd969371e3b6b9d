"""Random numbers as a pure function of (seed, epoch, sample, stream): no generator, no hidden state.

A run that is resumed at any step, with any number of workers, therefore draws the same numbers as a run
without a stop. The hash is the finaliser of SplitMix64, chained (Steele, Lea, Flood 2014, "Fast Splittable
Pseudorandom Number Generators").
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

_GOLDEN_GAMMA = np.uint64(0x9E3779B97F4A7C15)


def random_bits(*counters: ArrayLike) -> NDArray[np.uint64]:
    """64 random bits for each element of the broadcast counters, which are integers of at least 0."""
    state = np.zeros((), np.uint64)
    with np.errstate(over="ignore"):  # arithmetic modulo 2**64 is intended
        for counter in counters:
            z = (state ^ np.asarray(counter).astype(np.uint64)) + _GOLDEN_GAMMA
            z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            state = z ^ (z >> np.uint64(31))
    return state


def uniform(*counters: ArrayLike) -> NDArray[np.float64]:
    """Uniform numbers in [0, 1)."""
    values: NDArray[np.float64] = (random_bits(*counters) >> np.uint64(11)) * np.float64(2.0**-53)
    return values


def integers(high: int, *counters: ArrayLike) -> NDArray[np.int64]:
    """Uniform integers in [0, high)."""
    return (uniform(*counters) * high).astype(np.int64)


def permutation(seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    """A random permutation of `count` samples for one epoch."""
    return np.argsort(random_bits(seed, epoch, np.arange(count)), kind="stable")


def step_seed(seed: int, step: int, rank: int = 0) -> int:
    """A seed for the random operations of one step, such as dropout; different on every rank."""
    return int(random_bits(seed, step, 0x57E9 + rank) >> np.uint64(1))
