"""Warping against Pillow's resizing, and the geometry of the context."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import convatlas as ca
from convatlas.boxes.warp import dilate
from convatlas.errors import UsageError

RNG = np.random.default_rng(0)
PHOTO = RNG.integers(0, 256, (12, 15, 3)).astype(np.uint8).repeat(8, 0).repeat(8, 1)  # 96 x 120


def pillow_warp(
    pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]],
    crop: tuple[int, int, int, int],
    size: tuple[int, int],
) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    image = Image.fromarray(pixels).crop(crop)
    return np.asarray(image.resize(size[::-1], Image.Resampling.BILINEAR))


@given(st.integers(0, 10_000), st.sampled_from([0, 4, 8]))
def test_a_region_is_what_pillow_makes_of_the_same_pixels(seed: int, context: int) -> None:
    rng = np.random.default_rng(seed)
    sides = rng.uniform(2, 60, 2)
    corner = rng.uniform(0, np.array([120, 96]) - sides)
    boxes = np.array([[*corner, *(corner + sides)]])
    (region,) = ca.boxes.warp(PHOTO, boxes, (24, 32), context, fill=(9, 8, 7))
    canvas = np.full((96 + 200, 120 + 200, 3), (9, 8, 7), np.uint8)
    canvas[100:196, 100:220] = PHOTO
    left, top, right, bottom = (dilate(boxes, (24, 32), context)[0] + 100).tolist()
    expected = pillow_warp(canvas, (left, top, right, bottom), (24, 32))
    difference = region.permute(1, 2, 0).numpy().astype(int) - expected
    assert np.abs(difference).max() <= 1  # both round


def test_exactly_the_context_lies_around_the_box() -> None:
    """White on black, 40x20 in the middle: after warping it is 64 - 2 * 16 = 32 pixels a side."""
    pixels = np.zeros((100, 120, 3), np.uint8)
    pixels[40:60, 40:80] = 255
    (region,) = ca.boxes.warp(pixels, [[40, 40, 80, 60]], (64, 64))
    is_white = region[0] > 127
    assert is_white[16:48, 16:48].all()
    assert int(is_white.sum()) == 32 * 32


def test_what_is_missing_is_the_mean_color() -> None:
    pixels = np.zeros((20, 20, 3), np.uint8)
    pixels[:, 10:] = (200, 100, 50)
    (region,) = ca.boxes.warp(pixels, [[0, 0, 20, 20]], (32, 32), context=8)
    assert region[:, 0, 0].tolist() == [100, 50, 25]
    assert region[:, 16, 31].tolist() == [100, 50, 25]
    (region,) = ca.boxes.warp(pixels, [[0, 0, 20, 20]], (32, 32), context=8, fill=(1, 2, 3))
    assert region[:, 0, 0].tolist() == [1, 2, 3]
    assert region[:, 16, 12].tolist() == [0, 0, 0]


def test_a_batch_is_what_its_boxes_give_one_by_one() -> None:
    boxes = [[0, 0, 120, 96], [3.2, 4.7, 9.1, 80], [100, 80, 120.6, 96], [50, 50, 50.2, 50.1]]
    batch = ca.boxes.warp(PHOTO, boxes, (16, 16), 4)
    assert batch.dtype == torch.uint8
    assert batch.is_contiguous(memory_format=torch.channels_last)
    for box, region in zip(boxes, batch, strict=True):
        assert torch.equal(ca.boxes.warp(PHOTO, [box], (16, 16), 4)[0], region)
    assert ca.boxes.warp(PHOTO, [], (16, 16), 4).shape == (0, 3, 16, 16)
    assert ca.boxes.warp(PHOTO[:, :, :1], boxes, (16, 20), 4).shape == (4, 1, 16, 20)


@pytest.mark.parametrize(
    ("box", "reason"),
    [
        ([130, 10, 140, 20], r"boxes\[1\] = \(130, 10, 140, 20\) lies outside the image of 120x96 pixels"),
        ([-20, 10, 0, 20], "lies outside"),
        ([-1e8, 10, 20, 20], "reaches far beyond"),
        ([30, 10, 20, 20], "is inverted"),
        ([20, 10, 20, 20], "has no area"),
    ],
)
def test_boxes_that_show_nothing_are_refused(box: list[float], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        ca.boxes.warp(PHOTO, [[0, 0, 9, 9], box], (32, 32), 4)


def test_context_must_leave_room() -> None:
    with pytest.raises(UsageError, match="context is 16 pixels a side: 32x32 leaves no room"):
        ca.boxes.warp(PHOTO, [[0, 0, 9, 9]], (32, 32))
