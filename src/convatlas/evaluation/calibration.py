"""Calibration: whether a network's confidence is its accuracy. Guo, Pleiss, Sun, Weinberger 2017,
arXiv:1706.04599, sec. 2."""

from typing import NamedTuple

import numpy as np

from convatlas.evaluation.metrics import SampleScores, percent

NUM_BINS = 15  # of equal width, as in the paper


class Bin(NamedTuple):
    """The samples with a confidence above `low` and up to `high`; all in percent.

    `confidence` and `accuracy` are means over the bin's samples, None for an empty bin.
    """

    low: float
    high: float
    n: int
    confidence: float | None
    accuracy: float | None


def reliability(samples: SampleScores, num_bins: int = NUM_BINS) -> list[Bin]:
    """Confidence and accuracy in bins of confidence (the paper's Fig. 1)."""
    confidences = samples.confidences
    correct = samples.correct()
    edges = np.arange(1, num_bins) / num_bins
    bin_numbers = np.searchsorted(edges, confidences, side="left")
    bins = []
    for number in range(num_bins):
        in_bin = bin_numbers == number
        n = int(in_bin.sum())
        confidence = percent(confidences[in_bin].sum(), n) if n else None
        accuracy = percent(int(correct[in_bin].sum()), n) if n else None
        bins.append(Bin(100 * number / num_bins, 100 * (number + 1) / num_bins, n, confidence, accuracy))
    return bins


def calibration_error(bins: list[Bin]) -> float:
    """The expected calibration error (the paper's eq. 3), in percent: the mean gap between confidence and
    accuracy, weighted by the bins' samples."""
    gaps = [
        bin.n * abs(bin.confidence - bin.accuracy)
        for bin in bins
        if bin.confidence is not None and bin.accuracy is not None
    ]
    return sum(gaps) / sum(bin.n for bin in bins)
