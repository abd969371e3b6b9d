"""Box regression against scikit-learn's ridge regression, and its laws."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.linear_model import Ridge

import convatlas as ca
from convatlas.boxes import BoxRegressor
from convatlas.boxes.ridge import paired_iou
from convatlas.errors import UsageError, UserError

Array = NDArray[np.float64]


def pairs(n: int, features: int = 12, seed: int = 0) -> tuple[Array, Array, Array]:
    """Features, proposals, and boxes around them, some of which overlap too little."""
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, 100, (n, 2))
    boxes = np.hstack([corners, corners + rng.uniform(20, 60, (n, 2))])
    x = np.maximum(0, rng.normal(size=(n, features)))
    deltas = 0.05 * x @ rng.normal(size=(features, 4)) + rng.normal(0, 0.05, (n, 4))
    proposals: Array = boxes
    return x, proposals, ca.boxes.decode(proposals, deltas)


def sklearn_boxes(
    x: Array, proposals: Array, targets: Array, ridge: float, x_new: Array, new: Array
) -> Array:
    """The objective of appendix C by scikit-learn, on the pairs of IoU above 0.6."""
    usable = np.diag(ca.boxes.iou(proposals, targets)) > 0.6
    assert 0.2 < usable.mean() < 0.95
    deltas = ca.boxes.encode(proposals[usable], targets[usable])
    model = Ridge(alpha=ridge, fit_intercept=False, solver="svd").fit(x[usable], deltas)
    return ca.boxes.decode(new, model.predict(x_new))


@pytest.mark.parametrize("ridge", [1.0, 1000.0])
def test_predictions_are_those_of_scikit_learns_ridge(ridge: float) -> None:
    x, proposals, targets = pairs(3000)
    regressor = BoxRegressor(ridge).fit(x, proposals, targets)
    predicted = regressor.predict(x, proposals)
    expected = sklearn_boxes(x, proposals, targets, ridge, x, proposals)
    np.testing.assert_allclose(predicted, expected, rtol=0, atol=1e-9)
    before, after = (paired_iou(boxes, targets).mean() for boxes in (proposals, predicted))
    assert after > before + 0.05


def test_each_class_has_its_own_regression() -> None:
    x, proposals, targets = pairs(800)
    classes = np.random.default_rng(1).integers(0, 3, 800)
    regressor = BoxRegressor(10.0).fit(x, proposals, targets, classes)
    predicted = regressor.predict(x, proposals, classes)
    for label in range(3):
        of = classes == label
        expected = sklearn_boxes(x[of], proposals[of], targets[of], 10.0, x[of], proposals[of])
        np.testing.assert_allclose(predicted[of], expected, rtol=0, atol=1e-9)
    assert sum(regressor.pairs.values()) == (paired_iou(proposals, targets) > 0.6).sum()


@given(st.lists(st.integers(0, 300), max_size=4), st.booleans())
def test_the_division_into_parts_changes_nothing(cuts: list[int], with_classes: bool) -> None:
    x, proposals, targets = pairs(300, features=5)
    classes = np.arange(300) % 2 if with_classes else None
    whole = BoxRegressor(10.0).fit(x, proposals, targets, classes)
    parts = BoxRegressor(10.0)
    for rows in np.split(np.arange(300), sorted(cuts)):
        parts.partial_fit(
            x[rows], proposals[rows], targets[rows], classes[rows] if classes is not None else None
        )
    assert parts.pairs == whole.pairs
    np.testing.assert_allclose(
        parts.predict(x, proposals, classes), whole.predict(x, proposals, classes), atol=1e-9
    )


def test_memory_is_that_of_the_sums_whatever_the_number_of_proposals() -> None:
    regressor = BoxRegressor()
    x, proposals, targets = pairs(500)
    for _ in range(5):
        regressor.partial_fit(x, proposals, targets)
    (equations,) = regressor._equations.values()
    arrays = [value for value in vars(equations).values() if isinstance(value, np.ndarray)]
    assert sum(array.size for array in arrays) == 12 * 12 + 12 * 4
    assert equations.pairs == 5 * (paired_iou(proposals, targets) > 0.6).sum()


def test_tensors_and_lists_give_what_arrays_give() -> None:
    x, proposals, targets = pairs(50, features=3)
    expected = BoxRegressor().fit(x, proposals, targets).predict(x, proposals)
    as_tensors = [torch.from_numpy(value) for value in (x, proposals, targets)]
    predicted = BoxRegressor().fit(*as_tensors).predict(*as_tensors[:2])
    np.testing.assert_array_equal(predicted.numpy(), expected)
    as_lists = BoxRegressor().fit(x.tolist(), proposals.tolist(), targets.tolist())
    np.testing.assert_array_equal(as_lists.predict(x.tolist(), proposals.tolist()), expected)


def test_iterations_take_the_features_of_the_boxes_before() -> None:
    """With the box's own shift to the object as features, each prediction shrinks the rest of it."""
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 50, (200, 2))
    objects = np.hstack([corners, corners + 40])
    proposals = ca.boxes.decode(objects, rng.normal(0, 0.08, (200, 4)))

    def features_of(boxes: Array) -> Array:
        return ca.boxes.encode(boxes, objects)

    regressor = BoxRegressor(0.01).fit(features_of(proposals), proposals, objects)
    rounds = regressor.iterate(features_of, proposals, 3)
    distances = [1 - paired_iou(boxes, objects).mean() for boxes in (proposals, *rounds)]
    assert distances[0] > 3 * distances[1] > 9 * distances[2] > 27 * distances[3]


def test_a_wild_prediction_stays_a_box() -> None:
    x, proposals, targets = pairs(100, features=3)
    predicted = BoxRegressor(1.0).fit(x, proposals, targets).predict(1e6 * x, proposals)
    assert np.isfinite(predicted).all()
    growth = (predicted[:, 2:] - predicted[:, :2]) / (proposals[:, 2:] - proposals[:, :2])
    assert growth.max() <= 62.5 * (1 + 1e-9)
    assert np.abs(predicted).max() < 2 * 62.5 * 160  # sides are up to 60, coordinates to 160
    fitted = BoxRegressor(1.0).fit(x, proposals, targets)
    assert np.isfinite(fitted.predict(1e200 * x, proposals)).all()


def test_wrong_use_is_refused_with_its_reason() -> None:
    x, proposals, targets = pairs(30, features=3)
    with pytest.raises(UsageError, match="ridge is 0"):
        BoxRegressor(0)
    with pytest.raises(UsageError, match="min_iou is 1"):
        BoxRegressor(min_iou=1)
    with pytest.raises(UsageError, match="fit the regressor before it predicts"):
        BoxRegressor().predict(x, proposals)
    with pytest.raises(UserError, match=r"no proposal overlaps its box by an IoU above 0.6"):
        BoxRegressor().fit(x, proposals, targets + 1000)
    with pytest.raises(UsageError, match=r"a row for each of the 30 proposals, not \(29, 3\)"):
        BoxRegressor().fit(x[1:], proposals, targets)
    fitted = BoxRegressor().fit(x, proposals, targets, np.full(30, 4))
    with pytest.raises(UsageError, match="no box regressor was fitted for class 5: fitted are 4"):
        fitted.predict(x, proposals, np.full(30, 5))
    with pytest.raises(UsageError, match="fitted with classes"):
        fitted.predict(x, proposals)
    with pytest.raises(UsageError, match="features have 2 columns, and those before had 3"):
        fitted.predict(x[:, :2], proposals, np.full(30, 4))
    with pytest.raises(UsageError, match=r"classes\[0\] is -1"):
        fitted.predict(x, proposals, np.full(30, -1))


def test_a_refused_part_adds_nothing() -> None:
    x, proposals, targets = pairs(3000, features=3)
    regressor = BoxRegressor().fit(x, proposals, targets)
    weights, count = regressor.weights().copy(), regressor.pairs
    x[2500, 1] = np.nan
    with pytest.raises(UsageError, match="is not a finite number"):
        regressor.partial_fit(x, proposals, targets)
    assert regressor.pairs == count
    assert (regressor.weights() == weights).all()
