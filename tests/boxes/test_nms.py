"""Suppression against the sentence of the paper, transcribed, and against OpenCV's."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import convatlas as ca
from convatlas.boxes.nms import nms_by_class


def overlap(a: list[float], b: list[float]) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    both = width * height
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


def paper_nms(boxes: list[list[float]], scores: list[float], threshold: float) -> list[int]:
    """Sec. 2.2: "rejects a region if it has an intersection-over-union (IoU) overlap with a higher scoring
    selected region larger than a learned threshold"; the first listed of equals counts as the higher."""
    selected: list[int] = []
    for index in sorted(range(len(boxes)), key=lambda i: (-scores[i], i)):
        if all(overlap(boxes[index], boxes[other]) <= threshold for other in selected):
            selected.append(index)
    return selected


@given(st.integers(0, 40), st.sampled_from([0.0, 0.2, 0.5, 1.0]), st.integers(0, 10_000))
def test_suppression_is_the_papers_with_ties_of_scores_and_of_overlaps(
    n: int, threshold: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    corners = rng.integers(0, 6, (n, 2))  # on a small grid, equal boxes and overlaps are frequent
    boxes = np.hstack([corners, corners + rng.integers(1, 5, (n, 2))]).astype(float)
    scores = rng.integers(0, 4, n) / 4
    assert ca.boxes.nms(boxes, scores, threshold).tolist() == paper_nms(
        boxes.tolist(), scores.tolist(), threshold
    )


def test_suppression_is_opencvs() -> None:
    cv2 = pytest.importorskip("cv2")
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 100, (300, 2))
    sides = rng.uniform(5, 60, (300, 2))
    scores = rng.permutation(300) / 300 + 0.001
    expected = cv2.dnn.NMSBoxes(np.hstack([corners, sides]).tolist(), scores.tolist(), 0.0, 0.4)
    assert ca.boxes.nms(np.hstack([corners, corners + sides]), scores, 0.4).tolist() == list(expected)


def test_a_class_suppresses_only_itself() -> None:
    boxes = np.array([[0.0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 10]])
    scores = np.array([0.5, 0.9, 0.7])
    assert nms_by_class(boxes, scores, np.array([0, 0, 1]), 0.5).tolist() == [1, 2]
    assert nms_by_class(boxes[:0], scores[:0], np.array([], np.int64), 0.5).tolist() == []
