"""Greedy non-maximum suppression. arXiv:1311.2524, sec. 2.2."""

from typing import overload

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from convatlas.boxes.arrays import Array, Numbers, Values, as_boxes, as_vector, same_kind
from convatlas.boxes.targets import iou
from convatlas.errors import UsageError


@overload
def nms(boxes: Tensor, scores: Values, threshold: float) -> Tensor: ...
@overload
def nms(boxes: Numbers, scores: Values, threshold: float) -> NDArray[np.int64]: ...
def nms(boxes: Values, scores: Values, threshold: float) -> NDArray[np.int64] | Tensor:
    """The indices of the boxes that are kept, best first: a box is rejected if its IoU with a kept box of
    higher score is larger than `threshold`. Of equal scores, the box listed first counts as the higher.

    boxes (n, 4), scores (n,). Raises UsageError for inverted boxes, values that are not finite, and a
    threshold outside 0 to 1.
    """
    checked = as_boxes(boxes, "boxes", flat=True)
    order = np.argsort(-as_vector(scores, "scores", len(checked)), kind="stable")
    if not 0 <= threshold <= 1:
        raise UsageError(f"threshold is {threshold}: expected an IoU from 0 to 1")
    selected = []
    while len(order):
        best, rest = order[0], order[1:]
        selected.append(best)
        order = rest[iou(checked[best : best + 1], checked[rest])[0] <= threshold]
    return same_kind(np.array(selected, np.int64), boxes)


def nms_by_class(
    boxes: Array, scores: Array, labels: NDArray[np.int64], threshold: float
) -> NDArray[np.int64]:
    """`nms` for each class by itself: the indices that are kept, best first over all classes."""
    selected = [
        members[nms(boxes[members], scores[members], threshold)]
        for members in (np.flatnonzero(labels == label) for label in np.unique(labels))
    ]
    indices = np.concatenate([np.empty(0, np.int64), *selected])
    return indices[np.lexsort((indices, -scores[indices]))]
