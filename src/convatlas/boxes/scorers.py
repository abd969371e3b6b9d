"""The two classifiers of regions: one support vector machine a class, with hard negatives (arXiv:1311.2524,
sec. 2.3), and softmax regression over classes and background (appendix B).

Images are given as an iterable that is read several times: a list where the features fit into memory, else
anything that computes them again.
"""

from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from convatlas.boxes.arrays import Array
from convatlas.boxes.linear import Features, Linear, fit_softmax, fit_svm, log_softmax
from convatlas.boxes.region_sets import BACKGROUND, TrainingImage, is_negative_of, region_labels
from convatlas.boxes.targets import assign
from convatlas.errors import UserError

Scorer = Callable[[Features], Array]
"""features (n, d) -> scores (n, classes), the higher the likelier"""

SVM_NEGATIVE_IOU = 0.3  # sec. 2.3: positives are the objects' boxes alone, negatives overlap less than this
SOFTMAX_POSITIVE_IOU = 0.5  # appendix B
HARD_MARGIN, EASY_MARGIN = -1.0, -1.2  # negatives that are added, and removed; those of the released code
REFIT_AFTER = 2000  # new hard negatives of a class, as in the released code


class SoftmaxScorer:
    """The probabilities of the classes; background is the last column of `linear`."""

    def __init__(self, linear: Linear):
        self.linear = linear

    def __call__(self, features: Features) -> Array:
        probabilities: Array = np.exp(log_softmax(self.linear(features)))
        return probabilities[:, :-1]


def fit_softmax_scorer(
    images: Iterable[TrainingImage],
    num_classes: int,
    negatives_per_image: int = 32,
    cost: float = 1e-3,
    seed: int = 0,
) -> SoftmaxScorer:
    """Positives overlap an object by 0.5 or more; of the others of each image, `negatives_per_image` are
    drawn. Raises UserError where a class has no object."""
    features, labels = [], []
    for index, (regions, truths) in enumerate(images):
        of_image = region_labels(regions.boxes, truths, SOFTMAX_POSITIVE_IOU, SOFTMAX_POSITIVE_IOU)
        background = np.flatnonzero(of_image == BACKGROUND)
        rng = np.random.default_rng([seed, index])
        background = rng.permutation(background)[:negatives_per_image]
        chosen = np.concatenate([np.flatnonzero(of_image >= 0), background])
        features.append(regions.features[chosen])
        labels.append(of_image[chosen])
    check_classes(np.concatenate([*labels, np.zeros(0, np.int64)]), num_classes)
    targets = np.concatenate(labels)
    targets[targets == BACKGROUND] = num_classes
    return SoftmaxScorer(fit_softmax(np.concatenate(features), targets, num_classes + 1, cost))


def fit_svm_scorer(
    images: Iterable[TrainingImage], num_classes: int, cost: float = 1e-3, epochs: int = 1
) -> Linear:
    """One machine a class: positives are the boxes of its objects; negatives are mined. In each of `epochs`
    passes over the images, regions that a machine does not place below its margin are added to its negatives,
    it is fitted again after every 2,000 of them, and those that it has learned well are dropped.

    Raises UserError where a class has no object.
    """
    positives: list[list[NDArray[np.float32]]] = [[] for _ in range(num_classes)]
    found = []
    for regions, truths in images:
        nearest, overlaps = assign(truths.boxes, regions.boxes)
        for row, label, ignored, overlap in zip(
            nearest, truths.labels, truths.ignored, overlaps, strict=True
        ):
            if not ignored and overlap > 0.99:  # the object's own box, which is among the regions
                positives[label].append(regions.features[row])
                found.append(label)
    check_classes(np.array(found, np.int64), num_classes)
    machines = [HardNegatives(np.stack(rows), cost) for rows in positives]
    for _ in range(epochs):
        for image, (regions, truths) in enumerate(images):
            for label, machine in enumerate(machines):
                negative = is_negative_of(regions.boxes, truths, label, SVM_NEGATIVE_IOU)
                machine.mine(image, np.flatnonzero(negative), regions.features)
        for machine in machines:
            machine.refit()
    return Linear(
        np.ascontiguousarray(np.hstack([machine.linear.weights for machine in machines])),
        np.concatenate([machine.linear.biases for machine in machines]),
    )


class HardNegatives:
    """The machine of a class, its positives (n, d), and the negatives that are hard for it."""

    def __init__(self, positives: NDArray[np.float32], cost: float):
        self.positives = positives
        self.cost = cost
        self.negatives = [positives[:0]]
        self.keys = np.empty(0, np.int64)  # of the negatives: none is added a second time
        self.added = 0
        self.linear = Linear(np.zeros((positives.shape[1], 1)), np.zeros(1))  # to which all is hard

    def mine(self, image: int, rows: NDArray[np.int64], features: NDArray[np.float32]) -> None:
        """Add the hard ones among the negatives `rows` of an image with `features` (n, d)."""
        rows = rows[self.linear(features[rows])[:, 0] > HARD_MARGIN]
        keys = (image << 32) + rows
        is_new = ~np.isin(keys, self.keys)
        self.negatives.append(features[rows[is_new]])
        self.keys = np.append(self.keys, keys[is_new])
        self.added += int(is_new.sum())
        if self.added >= REFIT_AFTER:
            self.refit()

    def refit(self) -> None:
        if not self.added:
            return
        negatives = np.concatenate(self.negatives)
        rows = np.concatenate([self.positives, negatives])
        is_positive = np.arange(len(rows)) < len(self.positives)
        self.linear = fit_svm(rows, is_positive, self.cost, start=self.linear)
        hard = self.linear(negatives)[:, 0] >= EASY_MARGIN
        self.negatives, self.keys = [negatives[hard]], self.keys[hard]
        self.added = 0


def check_classes(labels: NDArray[np.int64], num_classes: int) -> None:
    """Raises UserError unless each class occurs."""
    missing = sorted({*range(num_classes)} - {*labels.tolist()})
    if missing:
        raise UserError(f"no object of class {missing[0]} is among the training images: it cannot be learned")
