"""Targets and overlaps against torchvision's, and laws that hold for any boxes."""

from importlib import import_module

import numpy as np
import pytest
import torch
from helpers.peers import import_or_skip
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

import convatlas as ca
from convatlas.boxes.targets import MAX_SCALE, assign
from convatlas.errors import UsageError

Array = NDArray[np.float64]


def random_boxes(rng: np.random.Generator, n: int, size: float = 100.0) -> Array:
    corners = rng.uniform(0, size, (n, 2))
    return np.hstack([corners, corners + rng.uniform(0.01, size, (n, 2))])


@st.composite
def some_boxes(draw: st.DrawFn, n: int) -> Array:
    """Boxes of sides from a millionth of a pixel to a million."""
    corner = st.floats(-1e4, 1e4)
    side = st.floats(-6, 6).map(lambda exponent: 10.0**exponent)
    rows = [[draw(corner), draw(corner), draw(side), draw(side)] for _ in range(n)]
    boxes = np.array(rows)
    boxes[:, 2:] += boxes[:, :2]
    return boxes


def test_the_targets_are_those_of_the_paper() -> None:
    """Eq. (6) to (9), of a proposal P of centre (30, 40), 20 x 40, and a box G of centre (35, 30),
    10 x 80."""
    deltas = ca.boxes.encode([[20, 20, 40, 60]], [[30, -10, 40, 70]])
    assert deltas[0] == pytest.approx(
        [(35 - 30) / 20, (30 - 40) / 40, np.log(10 / 20), np.log(80 / 40)], rel=1e-15
    )


def test_targets_and_their_inverse_are_those_of_torchvision() -> None:
    import_or_skip("torchvision")
    coder = import_module("torchvision.models.detection._utils").BoxCoder((1.0, 1.0, 1.0, 1.0))
    rng = np.random.default_rng(0)
    proposals, boxes = (torch.from_numpy(random_boxes(rng, 500)) for _ in range(2))
    expected = coder.encode_single(boxes, proposals)
    torch.testing.assert_close(ca.boxes.encode(proposals, boxes), expected, rtol=1e-12, atol=1e-12)
    deltas = torch.from_numpy(rng.normal(0, 3, (500, 4)))
    expected = coder.decode_single(deltas, proposals)
    torch.testing.assert_close(ca.boxes.decode(proposals, deltas, MAX_SCALE), expected, rtol=1e-12, atol=1e-9)


def test_overlaps_are_those_of_torchvision() -> None:
    ops = import_or_skip("torchvision").ops
    rng = np.random.default_rng(1)
    a, b = (torch.from_numpy(random_boxes(rng, n)) for n in (40, 60))
    torch.testing.assert_close(ca.boxes.iou(a, b), ops.box_iou(a, b), rtol=1e-12, atol=1e-12)


@given(some_boxes(3), some_boxes(3))
def test_decoding_inverts_encoding(proposals: Array, boxes: Array) -> None:
    decoded = ca.boxes.decode(proposals, ca.boxes.encode(proposals, boxes))
    scale = np.abs(np.hstack([proposals, boxes])).max()
    assert np.abs(decoded - boxes).max() <= 1e-12 * scale


@given(some_boxes(4), some_boxes(2))
def test_overlaps_are_symmetric_and_at_most_1(a: Array, b: Array) -> None:
    overlaps = ca.boxes.iou(a, b)
    assert overlaps.shape == (4, 2)
    assert ((overlaps >= 0) & (overlaps <= 1 + 1e-12)).all()
    assert (overlaps == ca.boxes.iou(b, a).T).all()
    assert np.diag(ca.boxes.iou(a, a)) == pytest.approx(1)


def test_results_are_of_the_kind_and_type_of_the_first_argument() -> None:
    boxes = torch.tensor([[0, 0, 2, 2], [1, 1, 3, 3]], dtype=torch.float16)
    assert ca.boxes.encode(boxes, boxes).dtype == torch.float16
    assert ca.boxes.iou(boxes.int(), boxes).dtype == torch.float64
    assert ca.boxes.nms(boxes, torch.tensor([0.5, 0.6]), 0.5).dtype == torch.int64
    for result in (ca.boxes.encode(boxes.tolist(), boxes), ca.boxes.iou(boxes.numpy(), boxes)):
        assert isinstance(result, np.ndarray)
        assert result.dtype == np.float64


def test_no_boxes_give_no_results() -> None:
    assert ca.boxes.encode([], []).shape == (0, 4)
    assert ca.boxes.decode(np.zeros((0, 4)), []).shape == (0, 4)
    assert ca.boxes.iou([], [[0, 0, 1, 1]]).shape == (0, 1)
    assert ca.boxes.nms([], [], 0.5).shape == (0,)


def test_a_box_of_no_area_overlaps_nothing_not_even_itself() -> None:
    assert ca.boxes.iou([[1, 1, 1, 5]], [[0, 0, 9, 9], [1, 1, 1, 5]]).tolist() == [[0, 0]]


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        ([[0, 0, 1, 1], [5, 0, 4, 1]], r"proposals\[1\] = \(5, 0, 4, 1\) is inverted: expected x1 < x2"),
        ([[0, 3, 1, 3]], r"proposals\[0\] = .* has no area"),
        ([[0, 0, 1, float("nan")]], r"proposals\[0, 3\] is not a finite number"),
        ([[0, 0, float("inf"), 1]], r"proposals\[0, 2\] is not a finite number"),
        ([[0, 0, 1e300, 1]], r"reaches farther than 1e\+09 pixels"),
        ([[0, 0, 1]], r"should be boxes x1, y1, x2, y2 of shape \(n, 4\), not of shape \(1, 3\)"),
        ([[0, 0, 1, 1], [0, 0, 1]], "rows of equal length"),
        ([["a", "b", "c", "d"]], "should be numbers"),
        (torch.ones(1, 4, dtype=torch.complex64), "should be numbers"),
        (None, "should be numbers"),
    ],
)
def test_invalid_boxes_are_named(boxes: object, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ca.boxes.encode(boxes, [[0, 0, 1, 1]])  # type: ignore[call-overload]


def test_what_does_not_belong_together_is_refused() -> None:
    two = [[0, 0, 1, 1], [0, 0, 2, 2]]
    with pytest.raises(UsageError, match="proposals and targets belong together row by row"):
        ca.boxes.encode(two, two[:1])
    with pytest.raises(UsageError, match=r"scores should have shape \(2,\)"):
        ca.boxes.nms(two, [1], 0.5)
    with pytest.raises(UsageError, match="threshold is 2"):
        ca.boxes.nms(two, [1, 2], 2)


def test_what_has_no_finite_result_is_refused() -> None:
    with pytest.raises(UsageError, match=r"proposals\[0\] is too small for its box"):
        ca.boxes.encode([[0, 0, 1e-320, 1]], [[5, 5, 1e9, 6]])
    with pytest.raises(UsageError, match=r"deltas\[0\] = \(0, 0, 800, 0\) lead beyond all coordinates"):
        ca.boxes.decode([[0, 0, 1, 1]], [[0, 0, 800, 0]])
    assert ca.boxes.decode([[0, 0, 1, 1]], [[0, 0, 800, 0]], max_scale=2).tolist() == [[-0.5, 0, 1.5, 1]]


def test_boxes_are_clipped_to_the_image() -> None:
    boxes = [[-5, 2, 30, 8], [40, 2, 50, 8]]
    assert ca.boxes.clip(boxes, (10, 20)).tolist() == [[0, 2, 20, 8], [20, 2, 20, 8]]


def test_a_proposal_is_assigned_to_the_box_that_it_overlaps_most() -> None:
    boxes = np.array([[0.0, 0, 4, 4], [2, 2, 6, 6]])
    nearest, overlaps = assign(np.array([[2.0, 2, 5, 5], [0, 0, 4, 4], [8, 8, 9, 9]]), boxes)
    assert nearest.tolist() == [1, 0, 0]
    assert overlaps.tolist() == [9 / 16, 1, 0]
    assert assign(boxes, np.zeros((0, 4)))[1].tolist() == [0, 0]
