"""R-CNN: regions, features, linear classifiers, box regression, suppression. Girshick, Donahue, Darrell,
Malik 2014, "Rich feature hierarchies for accurate object detection and semantic segmentation",
arXiv:1311.2524, sec. 2 and appendix C.

Unstated
- The scale of the features, on which cost and lambda depend: ours as released, all are multiplied by one
  number so that their mean norm is 20.
- The order of box regression and suppression: ours regresses first, so that boxes which it moves onto the
  same object do not count twice.
- The threshold of suppression, "learned": ours as released, 0.3.
Substituted
- Proposals are scored by a network that is not fine-tuned on regions (sec. 2.3).
- The machines' hinge is squared: LIBLINEAR's other loss, which L-BFGS minimises.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from convatlas.boxes.arrays import Array
from convatlas.boxes.detections import Detections
from convatlas.boxes.nms import nms_by_class
from convatlas.boxes.region_sets import Regions, TrainingImage
from convatlas.boxes.ridge import BoxRegressor, regress_boxes
from convatlas.boxes.scorers import Scorer
from convatlas.boxes.targets import assign, clip
from convatlas.errors import UserError

FEATURE_NORM = 20.0
NMS_THRESHOLD = 0.3
MAX_DETECTIONS = 100  # in an image

FitScorer = Callable[[Iterable[TrainingImage], int], Scorer]
"""(training images, number of classes) -> their scorer"""


class ScaledImages:
    """Training images with features multiplied by a scale; read as often as `images` can be."""

    def __init__(self, images: Iterable[TrainingImage], scale: float):
        self.images = images
        self.scale = np.float32(scale)

    def __iter__(self) -> Iterator[TrainingImage]:
        for regions, truths in self.images:
            yield TrainingImage(Regions(regions.boxes, regions.features * self.scale), truths)


@dataclass(frozen=True)
class RCNN:
    """A detector of `num_classes` classes, by the features of regions."""

    num_classes: int
    scale: float  # of the features
    scorer: Scorer
    regressors: Mapping[int, Array]  # the weights (d, 4) of each class's; without those that had no pair

    def detect(
        self,
        regions: Regions,
        size: tuple[int, int],
        regression: bool = True,
        min_score: float = -np.inf,
        nms_threshold: float = NMS_THRESHOLD,
        max_detections: int = MAX_DETECTIONS,
    ) -> Detections:
        """The detections in an image of `size` (height, width), best first. Each region is scored for every
        class; with `regression` it is moved by that class's regressor, if it has one."""
        features = regions.features * np.float32(self.scale)
        scores = self.scorer(features)
        rows, labels = np.nonzero(scores > min_score)
        boxes = regions.boxes[rows]
        if regression:
            boxes = self.regress(features, regions.boxes, rows, labels)
        moved = Detections(clip(boxes, size), scores[rows, labels], labels)
        return suppress(moved, nms_threshold, max_detections)

    def refine(
        self,
        detections: Detections,
        features_of: Callable[[Array], NDArray[np.float32]],
        size: tuple[int, int],
        nms_threshold: float = NMS_THRESHOLD,
    ) -> Detections:
        """Detections moved once more, by the features of their own boxes: `features_of` gives (n, d) for
        boxes (n, 4). Scores stay."""
        boxes, scores, labels = detections
        if len(boxes):
            features = features_of(boxes) * np.float32(self.scale)
            boxes = self.regress(features, boxes, np.arange(len(boxes)), labels)
        return suppress(Detections(clip(boxes, size), scores, labels), nms_threshold)

    def regress(
        self, features: NDArray[np.float32], boxes: Array, rows: NDArray[np.int64], labels: NDArray[np.int64]
    ) -> Array:
        """The boxes of `rows`, each moved by the regressor of its label; unmoved where the class had no pair
        to fit one to."""
        return regress_boxes(self.regressors, features[rows], boxes[rows], labels)


def suppress(
    detections: Detections, nms_threshold: float, max_detections: int = MAX_DETECTIONS
) -> Detections:
    """The best detections that have an area, each class suppressed by itself, best first."""
    boxes, scores, labels = detections
    has_area = np.flatnonzero((boxes[:, 2:] > boxes[:, :2]).all(axis=1))
    best = nms_by_class(boxes[has_area], scores[has_area], labels[has_area], nms_threshold)
    rows = has_area[best[:max_detections]]
    return Detections(boxes[rows], scores[rows], labels[rows])


def train_rcnn(
    images: Iterable[TrainingImage],
    num_classes: int,
    fit_scorer: FitScorer,
    regressor: BoxRegressor | None = None,
) -> RCNN:
    """Train on images whose regions hold the boxes of their objects. `fit_scorer` is one of scorers.py;
    `regressor` is fitted, and then knows the pairs of each class.

    `images` is read several times. Raises UserError without images, features or objects.
    """
    scale = feature_scale(images)
    scaled = ScaledImages(images, scale)
    scorer = fit_scorer(scaled, num_classes)
    regressor = regressor or BoxRegressor()
    for regions, truths in scaled:
        objects = ~truths.ignored
        boxes, labels = truths.boxes[objects], truths.labels[objects]
        if len(boxes):
            nearest, _ = assign(regions.boxes, boxes)
            regressor.partial_fit(regions.features, regions.boxes, boxes[nearest], labels[nearest])
    weights = {label: np.ascontiguousarray(regressor.weights(label)) for label in regressor.pairs}
    return RCNN(num_classes, scale, scorer, weights)


def feature_scale(images: Iterable[TrainingImage]) -> float:
    """The number by which features are multiplied so that their mean norm is 20. Raises UserError without any
    feature that is not 0."""
    total, count = 0.0, 0
    for regions, _ in images:
        total += float(np.linalg.norm(regions.features.astype(np.float64), axis=1).sum())
        count += len(regions.features)
    if not np.isfinite(total) or total <= 0:
        raise UserError(f"the features of {count} regions are all 0 or not finite: nothing can be learned")
    return FEATURE_NORM * count / total
