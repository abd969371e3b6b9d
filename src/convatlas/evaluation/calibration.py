"""Whether a network is right as often as it says. Guo, Pleiss, Sun, Weinberger 2017, arXiv:1706.04599, sec. 2."""

from typing import NamedTuple

import numpy as np

from convatlas.evaluation.metrics import Labels, Logits, correct, log_probabilities, percent

BINS = 15  # of equal width, as there


class Bin(NamedTuple):
    """The samples whose likeliest class has a probability above `low` and up to `high`; shares in percent, None where there are none."""

    low: float
    high: float
    n: int
    confidence: float | None
    accuracy: float | None


def reliability(logits: Logits, labels: Labels, bins: int = BINS) -> list[Bin]:
    """Confidence and accuracy, by confidence (its Fig. 1)."""
    sure = np.exp(log_probabilities(logits).max(axis=1))
    right = correct(logits, labels)
    edges = np.arange(1, bins) / bins
    place = np.searchsorted(edges, sure, side="left")
    found = []
    for number in range(bins):
        here = place == number
        n = int(here.sum())
        means = (percent(sure[here].sum(), n), percent(int(right[here].sum()), n)) if n else (None, None)
        found.append(Bin(100 * number / bins, 100 * (number + 1) / bins, n, *means))
    return found


def calibration_error(found: list[Bin]) -> float:
    """The expected calibration error (its eq. 3), in percent: the mean distance of confidence and accuracy, over samples."""
    gaps = [one.n * abs(one.confidence - one.accuracy) for one in found if one.confidence is not None and one.accuracy is not None]
    return sum(gaps) / sum(one.n for one in found)
