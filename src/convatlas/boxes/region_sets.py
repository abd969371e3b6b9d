"""The regions of an image with their features, and what each is a training example of."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from convatlas.boxes.arrays import Array
from convatlas.boxes.detections import Truths
from convatlas.boxes.matching import crowd_overlaps
from convatlas.boxes.targets import assign

BACKGROUND, UNUSED = -1, -2
CROWD_OVERLAP = 0.3  # of its area, from which on a region is no background


class Regions(NamedTuple):
    """Proposals of an image; in training its objects' boxes come with them."""

    boxes: Array  # (n, 4)
    features: NDArray[np.float32]  # (n, d)


class TrainingImage(NamedTuple):
    regions: Regions
    truths: Truths


def region_labels(
    boxes: Array, truths: Truths, positive_iou: float, negative_iou: float
) -> NDArray[np.int64]:
    """(n,): the class of the object with which a region overlaps by at least `positive_iou`; BACKGROUND where
    it overlaps each object by less than `negative_iou`; else UNUSED, as is what lies on an ignored object."""
    nearest, overlaps = assign(boxes, truths.boxes)
    labels = np.full(len(boxes), UNUSED)
    if not len(truths.boxes):
        return np.full(len(boxes), BACKGROUND)
    is_ignored = truths.ignored[nearest]
    labels[overlaps < negative_iou] = BACKGROUND
    positive = (overlaps >= positive_iou) & ~is_ignored
    labels[positive] = truths.labels[nearest[positive]]
    on_crowd = (crowd_overlaps(boxes, truths.boxes[truths.ignored]) >= CROWD_OVERLAP).any(axis=1)
    labels[on_crowd & (labels == BACKGROUND)] = UNUSED
    return labels


def is_negative_of(boxes: Array, truths: Truths, label: int, negative_iou: float) -> NDArray[np.bool_]:
    """(n,): whether a region overlaps each object of a class by less than `negative_iou`, and no ignored one
    much."""
    of_class = truths.boxes[(truths.labels == label) & ~truths.ignored]
    on_crowd = (crowd_overlaps(boxes, truths.boxes[truths.ignored]) >= CROWD_OVERLAP).any(axis=1)
    negative: NDArray[np.bool_] = (assign(boxes, of_class)[1] < negative_iou) & ~on_crowd
    return negative
