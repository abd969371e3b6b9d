"""What several windows of a picture, or several networks, say together: again logits, whose softmax is the prediction."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from convatlas.evaluation.metrics import Logits, log_probabilities

Average = Literal["probabilities", "scores"]
"""The mean of the softmax outputs, or the mean of what goes into the softmax."""


def average_logits(logits: NDArray[np.float32], average: Average) -> Logits:
    """(n, k, classes) -> (n, classes), float32. One alone stays as it is, to the bit; the k are added up in float64, in their order."""
    n, k, classes = logits.shape
    if k == 1:
        return logits[:, 0]
    if average == "scores":
        mean: NDArray[np.float64] = logits.mean(axis=1, dtype=np.float64)
        return mean.astype(np.float32)
    logs = log_probabilities(logits.reshape(n * k, classes)).reshape(n, k, classes)
    highest = logs.max(axis=1, keepdims=True)  # a probability may be too small for its exponential
    together: NDArray[np.float64] = highest[:, 0] + np.log(np.exp(logs - highest).sum(axis=1)) - np.log(k)
    return together.astype(np.float32)
