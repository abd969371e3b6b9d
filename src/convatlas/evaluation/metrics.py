"""Metrics from logits (n, classes) and labels (n,). Counts are integers; sums run in float64, in the order of the samples."""

import numpy as np
from numpy.typing import NDArray

Logits = NDArray[np.float32]
Labels = NDArray[np.int64]


def log_probabilities(logits: Logits) -> NDArray[np.float64]:
    """log softmax, in float64."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    result: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result


def negative_log_likelihood(logits: Logits, labels: Labels) -> float:
    """The mean of -log p(right class)."""
    return float(-log_probabilities(logits)[np.arange(len(labels)), labels].mean())


def correct(logits: Logits, labels: Labels, k: int = 1) -> NDArray[np.bool_]:
    """Whether fewer than k classes score higher than the right one; of equal scores, the class listed first counts as higher."""
    right = logits[np.arange(len(labels)), labels][:, None]
    earlier = np.arange(logits.shape[1])[None] < labels[:, None]
    higher = (logits > right) | ((logits == right) & earlier)
    result: NDArray[np.bool_] = higher.sum(axis=1) < k
    return result


def confusion(logits: Logits, labels: Labels) -> NDArray[np.int64]:
    """(classes, classes): how many samples of the row's class were given the column's."""
    classes = logits.shape[1]
    return np.bincount(labels * classes + logits.argmax(axis=1), minlength=classes**2).reshape(classes, classes)


def interval(successes: int, trials: int) -> tuple[float, float]:
    """The 95 % Wilson interval of a proportion, in percent."""
    from scipy.stats import binomtest

    found = binomtest(successes, trials).proportion_ci(confidence_level=0.95, method="wilson")
    return 100 * float(found.low), 100 * float(found.high)


def percent(part: int | float, whole: int) -> float:
    return 100 * float(part) / whole
