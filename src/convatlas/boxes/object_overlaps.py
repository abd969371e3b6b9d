"""How well detections lie on the objects: the IoU of each object with the detection that takes it."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from convatlas.boxes.arrays import Array
from convatlas.boxes.bootstrap import RESAMPLES, image_draws
from convatlas.boxes.detections import Detections, Truths
from convatlas.boxes.matching import coco_pairs
from convatlas.boxes.targets import iou


class ObjectOverlaps(NamedTuple):
    """The sums of the IoUs of each image's objects, and how many there are: both (images,)."""

    sums: Array
    objects: NDArray[np.int64]

    def mean(self, weights: NDArray[np.int64] | None = None) -> float:
        """The mean over the objects, in percent; NaN without objects. `weights` (images,): how often each
        image counts."""
        if weights is None:
            weights = np.ones(len(self.sums), np.int64)
        objects = int(weights @ self.objects)
        return 100 * float(weights @ self.sums) / objects if objects else float("nan")

    def bootstrap(self, resamples: int = RESAMPLES, seed: int = 0) -> Array:
        """The mean for the draws of images that `Outcomes.bootstrap` takes."""
        return np.array([self.mean(weights) for weights in image_draws(len(self.sums), resamples, seed)])


def object_overlaps(
    detections: Sequence[Detections], truths: Sequence[Truths], threshold: float = 0.5
) -> ObjectOverlaps:
    """The IoU of each object with the detection of its class that takes it in COCO's matching at `threshold`;
    0 for an object without one. Scores count only where detections compete. Ignored objects do not count."""
    sums = np.zeros(len(truths))
    objects = np.zeros(len(truths), np.int64)
    for image, (detected, truth) in enumerate(zip(detections, truths, strict=True)):
        for label in np.unique(truth.labels[~truth.ignored]):
            boxes_of_class = truth.boxes[(truth.labels == label) & ~truth.ignored]
            members = np.flatnonzero(detected.labels == label)
            members = members[np.argsort(-detected.scores[members], kind="stable")]
            boxes = detected.boxes[members]
            pairs = coco_pairs(boxes, boxes_of_class, np.zeros(len(boxes_of_class), bool), threshold)
            taken = pairs >= 0
            sums[image] += iou(boxes, boxes_of_class)[taken, pairs[taken]].sum()
            objects[image] += len(boxes_of_class)
    return ObjectOverlaps(sums, objects)


def mean_iou(detections: Sequence[Detections], truths: Sequence[Truths], threshold: float = 0.5) -> float:
    """The mean of `object_overlaps`, in percent; NaN without objects."""
    return object_overlaps(detections, truths, threshold).mean()
