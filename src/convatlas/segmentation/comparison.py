"""The mask that a network predicts for an image, compared with the image's target."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from convatlas.data.mask import IGNORE, Mask
from convatlas.segmentation.instances import instance_scores, label_instances
from convatlas.segmentation.metrics import confusion_matrix
from convatlas.segmentation.predict import LogitWindow


class ComparedMask(NamedTuple):
    """A predicted mask, and how it compares with its target."""

    mask: NDArray[np.uint8]  # (h, w): the most likely classes
    confusion: NDArray[np.int64]  # (classes, classes): rows targets, columns predictions
    loss: float  # the cross-entropy, summed over the pixels

    def row(self) -> NDArray[np.float64]:
        """(classes * classes + 1,): the confusion matrix, which float64 holds exactly, and the loss."""
        return np.append(self.confusion.ravel().astype(np.float64), self.loss)


class MaskComparison:
    """Takes the windows of logits that cover an image once, and compares them with its target (h, w),
    uint8."""

    def __init__(self, target: Tensor):
        self.target = target
        self.mask = np.empty(tuple(target.shape), np.uint8)
        self.num_classes = 0
        self.loss = 0.0

    def add(self, window: LogitWindow) -> None:
        rows, columns, logits = window
        self.num_classes = len(logits)
        self.mask[rows, columns] = logits.argmax(0).byte().cpu().numpy()
        part = self.target[rows, columns].contiguous()
        losses = F.cross_entropy(
            logits[None].float().cpu(), part[None].long(), reduction="none", ignore_index=IGNORE
        )
        self.loss += float(losses.sum(dtype=torch.float64))

    def result(self) -> ComparedMask:
        confusion = confusion_matrix(self.mask, self.target, self.num_classes, IGNORE)
        return ComparedMask(self.mask, confusion, self.loss)


def compare_with_target(windows: Iterable[LogitWindow], target: Tensor) -> ComparedMask:
    """All windows of an image, compared with its target."""
    comparison = MaskComparison(target)
    for window in windows:
        comparison.add(window)
    return comparison.result()


def object_scores(mask: NDArray[np.uint8], target: Mask) -> NDArray[np.float64]:
    """(objects,): the scores of the target's instances (`instance_scores`), in percent.

    The predicted objects are the connected components of `mask` (`label_instances`). What the target ignores
    counts in neither. An image without instances has no object.
    """
    if target.instances is None:
        return np.zeros(0)
    ignored = target.classes == IGNORE
    predicted = np.where(ignored, 0, label_instances(mask, ignore=None))
    return instance_scores(predicted, np.where(ignored, 0, target.instances))
