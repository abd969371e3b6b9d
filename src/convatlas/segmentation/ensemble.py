"""The average of several networks' predictions for a part of an image."""

from collections.abc import Sequence
from math import log

import torch

from convatlas.errors import UsageError
from convatlas.segmentation.predict import LogitWindow


def average_windows(windows: Sequence[LogitWindow]) -> LogitWindow:
    """The mean of the probabilities of all networks, as logits again: their softmax is the mean.

    The windows are of one part of an image. Raises UsageError for those of different parts.
    """
    first = windows[0]
    if any(window[:2] != first[:2] for window in windows):
        raise UsageError("networks that divide an image into other tiles cannot be averaged")
    log_probabilities = torch.stack([window.logits.float().log_softmax(0) for window in windows])
    return first._replace(logits=log_probabilities.logsumexp(0) - log(len(windows)))
