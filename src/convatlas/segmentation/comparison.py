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


def compare_with_target(windows: Iterable[LogitWindow], target: Tensor) -> ComparedMask:
    """Windows of logits that cover an image once, compared with its target (h, w), uint8."""
    mask = np.empty(tuple(target.shape), np.uint8)
    num_classes = 0
    loss = 0.0
    for rows, columns, logits in windows:
        num_classes = len(logits)
        mask[rows, columns] = logits.argmax(0).byte().cpu().numpy()
        part = target[rows, columns].contiguous()
        losses = F.cross_entropy(
            logits[None].float().cpu(), part[None].long(), reduction="none", ignore_index=IGNORE
        )
        loss += float(losses.sum(dtype=torch.float64))
    return ComparedMask(mask, confusion_matrix(mask, target, num_classes, IGNORE), loss)


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
