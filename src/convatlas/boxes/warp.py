"""Proposals warped to the network's input. arXiv:1311.2524, appendix A, "warp"."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from convatlas.boxes.arrays import Array, Values, as_boxes
from convatlas.boxes.proposals import Pixels, check_pixels
from convatlas.data.images.resize import resize
from convatlas.errors import UsageError

CONTEXT = 16  # pixels of the warped image, the paper's p


def warp(
    pixels: Pixels,
    boxes: Values,
    size: tuple[int, int],
    context: int = CONTEXT,
    fill: tuple[int, ...] | None = None,
) -> Tensor:
    """Warp boxes (n, 4) of an image (height, width, channels), uint8, to `size` (height, width), whatever
    their shape: (n, channels, *size), uint8, channels-last.

    Each is dilated so that exactly `context` pixels of the result lie on every side of the box. Where it then
    leaves the image, the missing pixels are `fill`, the image's mean colour if there is none. The dilated box
    is rounded to whole pixels, and shrunk with antialiasing.

    Raises UsageError for what is no image, a box that does not overlap the image, and a context that leaves
    no room for the box.
    """
    check_pixels(pixels)
    checked = as_boxes(boxes, "boxes")
    check_inside(checked, pixels.shape[:2])
    if not 0 <= 2 * context < min(size):
        raise UsageError(
            f"context is {context} pixels a side: {size[0]}x{size[1]} leaves no room for the box"
        )
    crops = dilate(checked, size, context)
    padded, offset = pad(pixels, crops, fill)
    crops += offset
    batch = torch.empty(len(crops), pixels.shape[2], *size, dtype=torch.uint8)
    batch = batch.to(memory_format=torch.channels_last)
    for position, (left, top, right, bottom) in enumerate(crops.tolist()):
        batch[position] = resize(padded[top:bottom, left:right], size)
    return batch


def dilate(boxes: Array, size: tuple[int, int], context: int) -> NDArray[np.int64]:
    """The whole pixels x1, y1, x2, y2 (n, 4) that boxes take in the image with their context; at least one
    pixel a side."""
    inner = np.array([size[1] - 2 * context, size[0] - 2 * context])
    margins = (boxes[:, 2:] - boxes[:, :2]) * context / inner
    starts = np.rint(boxes[:, :2] - margins).astype(np.int64)
    ends = np.rint(boxes[:, 2:] + margins).astype(np.int64)
    return np.hstack([starts, np.maximum(ends, starts + 1)])


def pad(
    pixels: Pixels, crops: NDArray[np.int64], fill: tuple[int, ...] | None
) -> tuple[Pixels, NDArray[np.int64]]:
    """The image with a border that holds all crops, and what its border adds to their coordinates (4,)."""
    height, width = pixels.shape[:2]
    left, top = (int(max(0, -value)) for value in crops[:, :2].min(axis=0, initial=0))
    right, bottom = crops[:, 2:].max(axis=0, initial=0)
    shape = top + max(height, int(bottom)), left + max(width, int(right)), pixels.shape[2]
    padded = np.empty(shape, np.uint8)
    padded[...] = mean_color(pixels) if fill is None else np.array(fill, np.uint8)
    padded[top : top + height, left : left + width] = pixels
    return padded, np.array([left, top, left, top])


def mean_color(pixels: Pixels) -> NDArray[np.uint8]:
    """(channels,)"""
    color: NDArray[np.uint8] = np.rint(pixels.mean(axis=(0, 1))).astype(np.uint8)
    return color


def check_inside(boxes: Array, size: tuple[int, ...]) -> None:
    """Raises UsageError for a box that does not overlap an image of `size` (height, width), or reaches
    farther beyond it than it is large: a slip in the boxes, and a crop of any size."""
    height, width = size[:2]
    sides = np.array([width, height])
    outside = ((boxes[:, :2] >= sides) | (boxes[:, 2:] <= 0)).any(axis=1)
    far = ((boxes[:, :2] < -sides) | (boxes[:, 2:] > 2 * sides)).any(axis=1)
    for wrong, reason in ((outside, "lies outside"), (far, "reaches far beyond")):
        if wrong.any():
            index = int(wrong.argmax())
            box = ", ".join(f"{value:g}" for value in boxes[index])
            raise UsageError(
                f"boxes[{index}] = ({box}) {reason} the image of {width}x{height} pixels: use boxes.clip, "
                "and leave out boxes of no area"
            )
