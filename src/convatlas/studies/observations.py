"""What was measured of an arm: a metric's value for each training seed, and of a rate of errors also which
test images each seed's network got wrong."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]


class Observations(NamedTuple):
    """`seeds` (n,), ascending; `values` (n,), of each; `by_image` (n, m): the values of the m test images,
    whose means they are; None for a metric that has none. `censored` (n,): the value is a bound, as of a
    run that has not reached a threshold within its budget."""

    seeds: NDArray[np.int64]
    values: Values
    by_image: NDArray[np.bool_] | None = None
    censored: NDArray[np.bool_] | None = None


class Difference(NamedTuple):
    """The mean paired difference of two arms, its standard error and the degrees of freedom of that.

    `seed_variance` (s²) is that of the differences over n training seeds, `image_variance` (v) that of the
    seed-averaged difference over m test images: se² = s²/n + v/m.
    """

    mean: float
    seed_variance: float
    n: int
    image_variance: float = 0.0
    m: int = 0

    @property
    def parts(self) -> tuple[float, float]:
        return self.seed_variance / self.n, self.image_variance / self.m if self.m else 0.0

    @property
    def se(self) -> float:
        return float(np.sqrt(sum(self.parts)))

    @property
    def df(self) -> float:
        """Satterthwaite's."""
        of_seeds, of_images = self.parts
        terms = of_seeds**2 / (self.n - 1) + (of_images**2 / (self.m - 1) if self.m > 1 else 0.0)
        return (of_seeds + of_images) ** 2 / terms

    def with_seeds(self, n: int) -> "Difference":
        """What would be expected of other seeds of the same variance."""
        return self._replace(n=n)


def paired_difference(a: Observations, b: Observations) -> Difference:
    """The values of `a` minus those of `b`, paired by seed, and by test image where both have them."""
    seeds, rows, other_rows = np.intersect1d(a.seeds, b.seeds, assume_unique=True, return_indices=True)
    differences = a.values[rows] - b.values[other_rows]
    n = len(seeds)
    variance = float(differences.var(ddof=1)) if n > 1 else 0.0
    mean = float(differences.mean()) if n else float("nan")
    if a.by_image is None or b.by_image is None:
        return Difference(mean, variance, n)
    by_image = 100 * (a.by_image[rows].mean(axis=0) - b.by_image[other_rows].mean(axis=0))
    m = len(by_image)
    return Difference(mean, variance, n, float(by_image.var(ddof=1)) if m > 1 else 0.0, m)


def difference_from(a: Observations, value: float) -> Difference:
    """The values of `a` minus a number."""
    constant = Observations(a.seeds, np.full(len(a.values), value))
    return paired_difference(a._replace(by_image=None), constant)
