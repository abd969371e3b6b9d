"""Proposals: selective search finds what stands out, again and again; sliding windows miss nothing large."""

import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import convatlas as ca
from convatlas.boxes.proposals import positions
from convatlas.errors import UsageError, UserError


def scene() -> np.ndarray[tuple[int, int, int], np.dtype[np.uint8]]:
    """A red rectangle on noise: x 20 to 60, y 30 to 70."""
    pixels = np.random.default_rng(0).integers(90, 110, (100, 120, 3)).astype(np.uint8)
    pixels[30:70, 20:60] = (200, 30, 30)
    return pixels


def test_selective_search_proposes_the_object_and_repeats_itself() -> None:
    pytest.importorskip("cv2")
    boxes = ca.boxes.selective_search(scene())
    assert ca.boxes.iou([[20, 30, 60, 70]], boxes).max() > 0.9
    assert (boxes >= 0).all()
    assert (boxes <= [120, 100, 120, 100]).all()
    assert len(np.unique(boxes, axis=0)) == len(boxes)
    for _ in range(3):
        np.random.default_rng().random()
        assert (ca.boxes.selective_search(scene()) == boxes).all()
    assert (ca.boxes.selective_search(scene(), max_boxes=5) == boxes[:5]).all()
    assert len(ca.boxes.selective_search(scene()[:, :, :1], "single")) >= 1


def test_without_opencv_one_sentence_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(UserError, match=r"pip install 'convatlas\[boxes\]'.*or take boxes.sliding_boxes"):
        ca.boxes.selective_search(scene())


def test_importing_the_room_does_not_import_opencv() -> None:
    import subprocess

    script = "import sys, convatlas as ca; ca.boxes.encode; sys.exit('cv2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


@given(st.integers(60, 400), st.integers(60, 400), st.integers(0, 10_000))
def test_sliding_boxes_overlap_whatever_has_their_sizes_and_shapes(
    height: int, width: int, seed: int
) -> None:
    """Neighbours are a quarter of a side apart, so a window of a box's shape is off by an eighth at most."""
    rng = np.random.default_rng(seed)
    boxes = ca.boxes.sliding_boxes((height, width))
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2:] <= np.array([width, height]) + 1e-9).all()
    side = rng.choice([0.3, 0.45, 0.65]) * min(height, width)
    aspect = rng.choice([0.5, 1.0, 2.0])
    sides = np.minimum([side * aspect**0.5, side / aspect**0.5], [width, height])
    corner = rng.uniform(0, np.array([width, height]) - sides)
    best = ca.boxes.iou([[*corner, *(corner + sides)]], boxes).max()
    assert best >= (7 / 8) ** 2 / (2 - (7 / 8) ** 2) - 1e-9


def test_positions_reach_both_ends() -> None:
    assert positions(10, 4).tolist() == pytest.approx([0, 10 / 3, 20 / 3, 10])
    assert positions(0, 4).tolist() == [0]


def test_wrong_use_is_refused_with_its_reason() -> None:
    with pytest.raises(UsageError, match=r"an image should be an array .* not float64 of shape"):
        ca.boxes.selective_search(scene().astype(float))
    with pytest.raises(UsageError, match=r"an image should be an array .* not a str"):
        ca.boxes.selective_search("a.png")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="unknown mode of selective search 'fats': the nearest is 'fast'"):
        ca.boxes.selective_search(scene(), "fats")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="should be above 0"):
        ca.boxes.sliding_boxes((100, 100), step=0)
