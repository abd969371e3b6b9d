"""Bounding-box regression by ridge regression in closed form. arXiv:1311.2524, appendix C.

The targets are linear in the features, without an intercept, as printed: w = (X'X + lambda I)^-1 X'T for each
class. X'X and X'T are sums over the proposals, accumulated in float64, so memory does not grow with them.
"""

from collections.abc import Callable, Mapping
from typing import Any, Self, overload

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from convatlas.boxes.arrays import (
    Array,
    Numbers,
    Values,
    as_boxes,
    as_float64,
    as_labels,
    check_same_length,
    same_kind,
)
from convatlas.boxes.targets import MAX_SCALE, areas, decode, encode
from convatlas.errors import UsageError, UserError

CHUNK = 1024  # rows that are converted to float64 at a time


class NormalEquations:
    """The sums of a class: X'X (d, d) and X'T (d, 4)."""

    def __init__(self, num_features: int):
        self.gram = np.zeros((num_features, num_features))
        self.moments = np.zeros((num_features, 4))
        self.pairs = 0

    def add(self, features: Array, deltas: Array) -> None:
        self.gram += features.T @ features
        self.moments += features.T @ deltas
        self.pairs += len(features)

    def solve(self, ridge: float) -> Array:
        """The weights (d, 4)."""
        from scipy.linalg import cho_factor, cho_solve

        factor = cho_factor(self.gram + ridge * np.eye(len(self.gram)), lower=True)
        weights: Array = cho_solve(factor, self.moments)
        return weights


class BoxRegressor:
    """Moves proposals towards the boxes that they were assigned to, by their features.

    `ridge` is lambda. Pairs of proposal and box whose IoU is not above `min_iou` are left out: "the task
    makes no sense" for them. Raises UsageError for other values.
    """

    def __init__(self, ridge: float = 1000.0, min_iou: float = 0.6):
        if not 0 < ridge < float("inf"):
            raise UsageError(f"ridge is {ridge}: expected a finite number above 0")
        if not 0 <= min_iou < 1:
            raise UsageError(f"min_iou is {min_iou}: expected an IoU from 0 to below 1")
        self.ridge = ridge
        self.min_iou = min_iou
        self._equations: dict[int, NormalEquations] = {}
        self._weights: dict[int, Array] = {}
        self._has_classes = False

    @property
    def pairs(self) -> dict[int, int]:
        """The number of pairs that each class was fitted to."""
        return {label: equations.pairs for label, equations in sorted(self._equations.items())}

    def weights(self, label: int = 0) -> Array:
        """The weights (d, 4) of a class. Raises UsageError for one without a pair."""
        if label not in self._equations:
            known = ", ".join(map(str, sorted(self._equations))) or "none"
            raise UsageError(f"no box regressor was fitted for class {label}: fitted are {known}")
        if label not in self._weights:
            self._weights[label] = self._equations[label].solve(self.ridge)
        return self._weights[label]

    def fit(
        self, features: Values, proposals: Values, targets: Values, classes: Values | None = None
    ) -> Self:
        """Fit to features (n, d) of proposals (n, 4), each with its box in `targets` (n, 4) and, for a
        regressor for each class, that box's class (n,).

        Raises UsageError for shapes that do not match, invalid boxes and values that are not finite;
        UserError where no pair overlaps by more than `min_iou`.
        """
        self._equations, self._weights = {}, {}
        self.partial_fit(features, proposals, targets, classes)
        if not self._equations:
            raise UserError(f"no proposal overlaps its box by an IoU above {self.min_iou}: nothing to fit")
        return self

    def partial_fit(
        self, features: Values, proposals: Values, targets: Values, classes: Values | None = None
    ) -> Self:
        """Add pairs to those of earlier calls; how they are divided changes no more than the rounding.
        Raises UsageError as `fit`, and then adds nothing."""
        p, g = as_boxes(proposals, "proposals"), as_boxes(targets, "targets")
        deltas = encode(p, g)
        labels = np.zeros(len(p), np.int64) if classes is None else as_labels(classes, "classes", len(p))
        if self._equations and self._has_classes != (classes is not None):
            raise UsageError("give classes with every call, or with none")
        usable = paired_iou(p, g) > self.min_iou
        rows_of = self._check_features(features, len(p))
        width = rows_of.shape[1]
        for start in range(0, len(p), CHUNK):  # all of them are checked before any is added
            as_float64(rows_of[start : start + CHUNK], "features")
        for start in range(0, len(p), CHUNK):
            rows = slice(start, start + CHUNK)
            chunk = as_float64(rows_of[rows], "features")
            for label in np.unique(labels[rows][usable[rows]]):
                members = usable[rows] & (labels[rows] == label)
                equations = self._equations.setdefault(int(label), NormalEquations(width))
                equations.add(chunk[members], deltas[rows][members])
                self._weights.pop(int(label), None)
        self._has_classes = classes is not None
        return self

    @overload
    def predict(self, features: Values, proposals: Tensor, classes: Values | None = None) -> Tensor: ...
    @overload
    def predict(
        self, features: Values, proposals: Numbers, classes: Values | None = None
    ) -> NDArray[np.float64]: ...
    def predict(
        self, features: Values, proposals: Values, classes: Values | None = None
    ) -> NDArray[np.float64] | Tensor:
        """The boxes (n, 4) for proposals (n, 4) with features (n, d); `classes` (n,) as given to `fit`.

        They are bounded as in `regress_boxes`. Raises UsageError as `fit`, and for a class that was not
        fitted.
        """
        p = as_boxes(proposals, "proposals")
        if not self._equations:
            raise UsageError("fit the regressor before it predicts")
        if self._has_classes != (classes is not None):
            raise UsageError(f"the regressor was fitted with{'' if self._has_classes else 'out'} classes")
        labels = np.zeros(len(p), np.int64) if classes is None else as_labels(classes, "classes", len(p))
        rows_of = self._check_features(features, len(p))
        weights = {int(label): self.weights(int(label)) for label in np.unique(labels)}
        return same_kind(regress_boxes(weights, rows_of, p, labels), proposals)

    def iterate(
        self,
        features_of: Callable[[Array], Values],
        proposals: Values,
        iterations: int,
        classes: Values | None = None,
    ) -> list[Array]:
        """Predict boxes, take their features (`features_of` gives (n, d) for boxes (n, 4)), predict from
        these, and so on: the boxes after each of the iterations. The paper finds that more than one does not
        help."""
        boxes = as_boxes(proposals, "proposals")
        results = []
        for _ in range(iterations):
            boxes = self.predict(features_of(boxes), boxes, classes)
            results.append(boxes)
        return results

    def _check_features(self, features: Values, length: int) -> NDArray[Any] | Tensor:
        """The features as an array or tensor with a row for each proposal. Raises UsageError."""
        if not isinstance(features, np.ndarray | Tensor):
            features = as_float64(features, "features")
        shape = tuple(features.shape)
        if len(shape) != 2 or shape[0] != length:
            raise UsageError(
                f"features should have shape (n, d), a row for each of the {length} proposals, not {shape}"
            )
        widths = {len(equations.gram) for equations in self._equations.values()}
        if widths and shape[1] not in widths:
            raise UsageError(f"features have {shape[1]} columns, and those before had {widths.pop()}")
        return features


def regress_boxes(
    weights: Mapping[int, Array],
    features: NDArray[Any] | Tensor,
    proposals: Array,
    labels: NDArray[np.int64],
) -> Array:
    """The boxes (n, 4) to which the weights (d, 4) of their classes move proposals (n, 4) with features
    (n, d); those of a class without weights stay.

    No side grows by more than a factor of 62.5, and no centre moves by more than as many sides. Raises
    UsageError for features that are not finite.
    """
    boxes = proposals.copy()
    for label, of_class in weights.items():
        members = np.flatnonzero(labels == label)
        for start in range(0, len(members), CHUNK):
            rows = members[start : start + CHUNK]
            deltas = as_float64(features[rows], "features") @ of_class
            deltas[:, :2] = deltas[:, :2].clip(-MAX_SCALE, MAX_SCALE)
            boxes[rows] = decode(proposals[rows], deltas, MAX_SCALE)
    return boxes


def paired_iou(a: Array, b: Array) -> Array:
    """Intersection over union row by row: (n, 4), (n, 4) -> (n,)"""
    check_same_length(a, "a", b, "b")
    sides = (np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2])).clip(min=0)
    intersections = sides[:, 0] * sides[:, 1]
    unions = areas(a) + areas(b) - intersections
    overlaps: Array = np.divide(intersections, unions, out=np.zeros_like(unions), where=unions > 0)
    return overlaps
