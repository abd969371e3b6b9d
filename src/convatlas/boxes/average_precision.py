"""Average precision by the definitions of PASCAL VOC and COCO, and its bootstrap interval over the images."""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from convatlas.boxes.arrays import Array
from convatlas.boxes.bootstrap import RESAMPLES, image_draws
from convatlas.boxes.detections import Detections, Truths
from convatlas.boxes.matching import IGNORED, TRUE, Match, match_coco, match_voc
from convatlas.errors import UsageError, unknown_name

Counts = NDArray[np.int64]
Definition = Literal["voc07", "voc12", "coco"]
COCO_THRESHOLDS = tuple(np.linspace(0.5, 0.95, 10).round(2).tolist())
COCO_MAX_DETECTIONS = 100  # of a class in an image


def area_voc07(true: Counts, false: Counts, positives: int) -> float:
    """The mean over the recalls 0, 0.1, ..., 1 of the best precision at that recall or above.

    Everingham et al. 2010, sec. 4.2. `true`, `false` (n,): how many detections down to each rank are.
    """
    precision = true / np.maximum(true + false, 1)
    reached = 10 * true[:, None] >= np.arange(11)[None] * positives  # in integers: recall is 0.3 or it is not
    return float((precision[:, None] * reached).max(axis=0, initial=0.0).mean())


def area_voc12(true: Counts, false: Counts, positives: int) -> float:
    """The area below the curve of the best precision at each recall or above (VOC 2010 and later)."""
    envelope = best_precision_from(true / np.maximum(true + false, 1))
    return float((np.diff(true, prepend=0) * envelope).sum() / positives)


def area_coco(true: Counts, false: Counts, positives: int) -> float:
    """The mean over the recalls 0, 0.01, ..., 1 of the best precision at that recall or above, read off as
    pycocotools does."""
    envelope = best_precision_from(true / (true + false + np.spacing(1)))
    ranks = np.searchsorted(true / positives, np.linspace(0.0, 1.0, 101), side="left")
    return float(np.append(envelope, 0.0)[ranks].mean())


def best_precision_from(precision: Array) -> Array:
    """(n,): the best precision at each rank or below it."""
    return np.maximum.accumulate(precision[::-1])[::-1]


class Benchmark(NamedTuple):
    match: Match
    area: Callable[[Counts, Counts, int], float]
    max_detections: int | None


BENCHMARKS: dict[str, Benchmark] = {
    "voc07": Benchmark(match_voc, area_voc07, None),
    "voc12": Benchmark(match_voc, area_voc12, None),
    "coco": Benchmark(match_coco, area_coco, COCO_MAX_DETECTIONS),
}


class ClassOutcomes(NamedTuple):
    """The detections of a class in all images, best first, without those that are ignored."""

    images: NDArray[np.int64]  # (n,): the image of each
    is_true: NDArray[np.bool_]  # (n,)
    positives: NDArray[np.int64]  # (images,): how many objects each image has


class Outcomes(NamedTuple):
    """All that average precision is computed from; an image may count several times, or not at all."""

    classes: tuple[ClassOutcomes, ...]
    area: Callable[[Counts, Counts, int], float]
    num_images: int

    def by_class(self, weights: NDArray[np.int64] | None = None) -> Array:
        """The average precision of each class (classes,), in percent; NaN for one without an object.
        `weights` (images,): how often each image counts."""
        if weights is None:
            weights = np.ones(self.num_images, np.int64)
        values = np.full(len(self.classes), np.nan)
        for index, outcomes in enumerate(self.classes):
            positives = int(weights @ outcomes.positives)
            if positives:
                counts = weights[outcomes.images]
                true = np.cumsum(counts * outcomes.is_true)
                false = np.cumsum(counts * ~outcomes.is_true)
                values[index] = 100 * self.area(true, false, positives)
        return values

    def mean(self, weights: NDArray[np.int64] | None = None) -> float:
        """The mean over the classes that have an object, in percent; NaN if none has."""
        values = self.by_class(weights)
        return float(np.nanmean(values)) if not np.isnan(values).all() else float("nan")

    def bootstrap(self, resamples: int = RESAMPLES, seed: int = 0) -> Array:
        """The mean for `resamples` draws of the images with replacement. Outcomes of the same images are
        drawn alike: the differences of two detectors are those on the same draws."""
        return np.array([self.mean(weights) for weights in image_draws(self.num_images, resamples, seed)])


def match_detections(
    detections: Sequence[Detections],
    truths: Sequence[Truths],
    num_classes: int,
    definition: Definition = "voc12",
    threshold: float = 0.5,
) -> Outcomes:
    """Match the detections in each image with its objects. Raises UsageError for an unknown definition or
    class, lists of different lengths, and a threshold outside 0 to 1."""
    if definition not in get_args(Definition):
        raise unknown_name("definition of average precision", definition, get_args(Definition))
    if len(detections) != len(truths):
        raise UsageError(f"detections in {len(detections)} images, and objects in {len(truths)}")
    if not 0 < threshold <= 1:
        raise UsageError(f"threshold is {threshold}: expected an IoU above 0, up to 1")
    largest = max(
        (int(item.labels.max(initial=0)) for pair in (detections, truths) for item in pair), default=0
    )
    if largest >= num_classes:
        raise UsageError(f"class {largest} is unknown: there are {num_classes}, from 0")
    benchmark = BENCHMARKS[definition]
    classes = tuple(
        _match_class(detections, truths, label, benchmark, threshold) for label in range(num_classes)
    )
    return Outcomes(classes, benchmark.area, len(truths))


def _match_class(
    detections: Sequence[Detections],
    truths: Sequence[Truths],
    label: int,
    benchmark: Benchmark,
    threshold: float,
) -> ClassOutcomes:
    scores, outcomes, images = [], [], []
    positives = np.zeros(len(truths), np.int64)
    for image, (detected, truth) in enumerate(zip(detections, truths, strict=True)):
        is_label = truth.labels == label
        positives[image] = (is_label & ~truth.ignored).sum()
        members = np.flatnonzero(detected.labels == label)
        members = members[np.argsort(-detected.scores[members], kind="stable")][: benchmark.max_detections]
        scores.append(detected.scores[members])
        outcomes.append(
            benchmark.match(
                detected.boxes[members], truth.boxes[is_label], truth.ignored[is_label], threshold
            )
        )
        images.append(np.full(len(members), image))
    order = np.argsort(-np.concatenate([*scores, []]), kind="stable")
    outcome = np.concatenate([*outcomes, np.zeros(0, np.int8)])[order]
    image_of = np.concatenate([*images, np.zeros(0, np.int64)])[order]
    counted = outcome != IGNORED
    return ClassOutcomes(image_of[counted], outcome[counted] == TRUE, positives)


def average_precision(
    detections: Sequence[Detections],
    truths: Sequence[Truths],
    num_classes: int,
    definition: Definition = "voc12",
    threshold: float = 0.5,
) -> float:
    """The mean over the classes of the average precision, in percent. `voc07` is the mean over 11 recalls,
    `voc12` the area below the curve (VOC 2010 and later), `coco` pycocotools' mean over 101 recalls.

    Raises UsageError as `match_detections`.
    """
    return match_detections(detections, truths, num_classes, definition, threshold).mean()


def coco_average_precision(
    detections: Sequence[Detections], truths: Sequence[Truths], num_classes: int
) -> float:
    """COCO's AP@[.5:.95]: the mean over the thresholds 0.5, 0.55, ..., 0.95, in percent."""
    values = [
        average_precision(detections, truths, num_classes, "coco", threshold) for threshold in COCO_THRESHOLDS
    ]
    return float(np.mean(values))
