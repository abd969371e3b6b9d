"""Averages of the logits of several views of an image, or of several networks: again logits, whose softmax is
the prediction."""

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from convatlas.evaluation.metrics import Logits, log_probabilities

CHUNK_SAMPLES = 2_000  # averaged at once: the float64 logits of a whole split would take much memory
Average = Literal["probabilities", "scores"]
"""The mean of the outputs of the softmax, or the mean of its inputs."""


def average_logits(logits: NDArray[np.float32], average: Average) -> Logits:
    """Average (n, k, classes) over k: (n, classes), float32.

    With k = 1 the logits are returned unchanged, bit for bit; else the k are summed in float64, in their
    order.
    """
    n, k, classes = logits.shape
    if k == 1:
        return logits[:, 0]
    if average == "scores":
        mean: NDArray[np.float64] = logits.mean(axis=1, dtype=np.float64)
        return mean.astype(np.float32)
    log_probs = log_probabilities(logits.reshape(n * k, classes)).reshape(n, k, classes)
    max_log_probs = log_probs.max(axis=1, keepdims=True)  # a probability may be too small for its exponential
    sum_ratios = np.exp(log_probs - max_log_probs).sum(axis=1)
    log_mean: NDArray[np.float64] = max_log_probs[:, 0] + np.log(sum_ratios) - np.log(k)
    return log_mean.astype(np.float32)


def ensemble_logits(member_logits: Sequence[Logits], average: Average) -> Logits:
    """Average the logits of several networks, each (n, classes); those of a single one are unchanged."""
    return np.concatenate([average_logits(chunk, average) for chunk in _chunks(member_logits)])


def _chunks(member_logits: Sequence[Logits]) -> Iterator[NDArray[np.float32]]:
    """Yield (chunk, members, classes)."""
    for start in range(0, len(member_logits[0]), CHUNK_SAMPLES):
        yield np.stack([logits[start : start + CHUNK_SAMPLES] for logits in member_logits], axis=1)
