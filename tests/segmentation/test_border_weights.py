"""U-Net's weight map against its equation, pixel by pixel."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.utils.class_weight import compute_class_weight

from convatlas.segmentation.border_weights import balance_classes, border_weights


def cells(seed: int, number: int, shape: tuple[int, int]) -> NDArray[np.int64]:
    """Discs with ids 3, 6, 9 ..., the later over the earlier."""
    rng = np.random.default_rng(seed)
    rows, columns = np.indices(shape)
    instances = np.zeros(shape, np.int64)
    for cell in range(1, number + 1):
        row, column = rng.integers(0, shape[0]), rng.integers(0, shape[1])
        instances[(rows - row) ** 2 + (columns - column) ** 2 <= rng.integers(0, 12)] = 3 * cell
    return instances


def equation_2(
    instances: NDArray[np.int64], w_c: NDArray[np.float64], w0: float, sigma: float
) -> NDArray[np.float64]:
    pixels = np.indices(instances.shape).reshape(2, -1, 1)  # (2, pixels, 1)
    distances = []
    for cell in sorted(set(instances.ravel().tolist()) - {0}):
        rows, columns = np.nonzero(instances == cell)
        distances.append(np.hypot(pixels[0] - rows, pixels[1] - columns).min(axis=1))
    if len(distances) < 2:
        return w_c
    d1, d2 = np.sort(distances, axis=0)[:2].reshape(2, *instances.shape)
    weights: NDArray[np.float64] = w_c + (instances == 0) * w0 * np.exp(-((d1 + d2) ** 2) / (2 * sigma**2))
    return weights


@given(
    st.integers(0, 10_000),
    st.integers(0, 5),
    st.sampled_from([(10.0, 5.0), (3.0, 1.0), (10.0, 0.4), (0.0, 2.0)]),
)
def test_weights_are_equation_2(seed: int, number: int, parameters: tuple[float, float]) -> None:
    instances = cells(seed, number, (13, 17))
    w0, sigma = parameters
    class_weights = np.array([0.7, 2.5])
    expected = equation_2(instances, class_weights[(instances > 0).astype(int)], w0, sigma)
    weights = border_weights(instances, class_weights=class_weights, w0=w0, sigma=sigma)
    assert weights.dtype == np.float32
    np.testing.assert_allclose(weights, expected, rtol=2e-7, atol=2e-8)


def test_far_cells_in_a_large_image_have_no_influence_and_near_ones_all_of_it() -> None:
    instances = np.zeros((60, 300), np.int64)
    instances[20:30, 20:30], instances[25:40, 33:50], instances[:9, 250:] = 1, 2, 3
    ones = np.ones(2)
    expected = equation_2(instances, np.ones(instances.shape), 10, 5)
    np.testing.assert_allclose(border_weights(instances, class_weights=ones), expected, rtol=2e-7, atol=2e-8)
    strip = border_weights(instances, class_weights=ones)[25:30, 30:33]
    np.testing.assert_allclose(strip, 1 + 10 * math.exp(-16 / 50), rtol=1e-6)  # d1 + d2 = 4 in a strip of 3


def test_classes_are_balanced_as_scikit_learn_does() -> None:
    class_ids = np.random.default_rng(0).choice(3, (20, 30), p=[0.7, 0.2, 0.1])
    expected = compute_class_weight("balanced", classes=np.arange(3), y=class_ids.ravel())
    np.testing.assert_allclose(balance_classes(np.bincount(class_ids.ravel())), expected)
    weights = border_weights(np.zeros((20, 30), int), class_ids)
    np.testing.assert_allclose(weights, expected[class_ids], rtol=1e-6)
    assert weights.mean() == pytest.approx(1)
    assert balance_classes(np.array([3, 0, 1])).tolist() == [2 / 3, 0, 2]


def test_ignored_pixels_weigh_nothing() -> None:
    instances = np.array([[1, 0, 0, 2]])
    class_ids = np.array([[1, 0, 255, 1]], np.uint8)
    weights = border_weights(instances, class_ids)
    np.testing.assert_allclose(weights, [[0.75, 1.5 + 10 * math.exp(-9 / 50), 0, 0.75]], rtol=1e-6)


@pytest.mark.parametrize("number", [0, 1])
def test_fewer_than_two_cells_have_no_border_term(number: int) -> None:
    instances = cells(0, number, (9, 9))
    class_weights = np.array([1.5, 2.5])
    expected = class_weights[(instances > 0).astype(int)]
    assert np.array_equal(border_weights(instances, class_weights=class_weights), expected)


def test_an_image_without_background_has_the_classes_weights() -> None:
    assert border_weights(np.array([[1, 2], [1, 3]])).tolist() == [[1, 1], [1, 1]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"instances": np.full((2, 2), -1)}, "instances should be integer ids"),
        ({"instances": np.zeros((2, 2))}, "instances should be integer ids"),
        ({"sigma": 0.0}, "sigma should be above 0"),
        ({"class_ids": np.zeros((2, 3), int)}, r"class_ids have shape \(2, 3\)"),
        ({"class_ids": np.full((2, 2), 2), "class_weights": np.ones(2)}, "hold 2, but there are 2"),
    ],
)
def test_what_eq_2_cannot_take_is_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        border_weights(**({"instances": np.zeros((2, 2), int)} | arguments))  # type: ignore[arg-type]
