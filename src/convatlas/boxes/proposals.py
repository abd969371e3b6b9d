"""Region proposals: selective search, and a dense set of sliding windows that needs no other library."""

import ctypes
import threading
from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from convatlas.boxes.arrays import Array
from convatlas.errors import UsageError, UserError, unknown_name

Pixels = NDArray[np.uint8]  # (height, width, channels)
Mode = Literal["fast", "quality", "single"]

_ONE_SEARCH = threading.Lock()  # the order of the boxes hangs on the C library's random numbers


def selective_search(pixels: Pixels, mode: Mode = "fast", max_boxes: int | None = None) -> Array:
    """Propose boxes (n, 4), the likeliest first, in an image (height, width, 1 or 3), uint8, RGB.

    Uijlings et al. 2013, by OpenCV; `fast` is the mode of R-CNN (arXiv:1311.2524, sec. 2.2: about 2,000 boxes
    an image). The same image gives the same boxes in the same order, unless other threads draw from C's
    `rand` meanwhile. Raises UserError where OpenCV with its contributed modules is not installed, UsageError
    for what is no image.
    """
    if mode not in get_args(Mode):
        raise unknown_name("mode of selective search", mode, get_args(Mode))
    check_pixels(pixels)
    search = _import_opencv().ximgproc.segmentation.createSelectiveSearchSegmentation()
    colors = np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels[:, :, ::-1]  # OpenCV's are BGR
    search.setBaseImage(np.ascontiguousarray(colors))
    switch = {
        "fast": search.switchToSelectiveSearchFast,
        "quality": search.switchToSelectiveSearchQuality,
        "single": search.switchToSingleStrategy,
    }
    switch[mode]()
    with _ONE_SEARCH:
        ctypes.CDLL(None).srand(0)
        rectangles = np.asarray(search.process(), np.float64).reshape(-1, 4)
    boxes = np.hstack([rectangles[:, :2], rectangles[:, :2] + rectangles[:, 2:]])
    boxes = boxes[(rectangles[:, 2:] > 0).all(axis=1)]
    return boxes[:max_boxes]


def sliding_boxes(
    size: tuple[int, int],
    scales: Sequence[float] = (0.3, 0.45, 0.65, 0.9),
    aspects: Sequence[float] = (0.5, 1.0, 2.0),
    step: float = 0.25,
) -> Array:
    """A dense set of boxes (n, 4) in an image of `size` (height, width), from small to large.

    A box has the area of a square whose side is `scale` times the image's shorter side; its width is `aspect`
    times its height; neighbours are at most `step` of a side apart. Boxes larger than the image are cut to
    it. Raises UsageError for values that are not above 0.
    """
    height, width = size
    if min(height, width) < 1 or step <= 0 or min(*scales, *aspects, 1) <= 0:
        raise UsageError("size, scales, aspects and step of sliding boxes should be above 0")
    grids = []
    for scale in scales:
        for aspect in aspects:
            side = scale * min(height, width)
            box_width, box_height = min(side * aspect**0.5, width), min(side / aspect**0.5, height)
            lefts = positions(width - box_width, step * box_width)
            tops = positions(height - box_height, step * box_height)
            left, top = (grid.ravel() for grid in np.meshgrid(lefts, tops))
            grids.append(np.column_stack([left, top, left + box_width, top + box_height]))
    boxes = np.concatenate(grids)
    _, first = np.unique(boxes, axis=0, return_index=True)  # of two that were cut to the image
    distinct: Array = boxes[np.sort(first)]
    return distinct


def positions(room: float, max_step: float) -> Array:
    """Positions from 0 to `room`, evenly spaced, at most `max_step` apart."""
    return np.linspace(0, room, int(np.ceil(room / max_step)) + 1)


def check_pixels(pixels: Pixels) -> None:
    """Raises UsageError for anything but an image (height, width, 1 or 3), uint8."""
    is_image = isinstance(pixels, np.ndarray) and pixels.ndim == 3 and pixels.shape[2] in (1, 3)
    if not is_image or pixels.dtype != np.uint8 or not pixels.size:
        kind = (
            f"{pixels.dtype} of shape {pixels.shape}"
            if isinstance(pixels, np.ndarray)
            else f"a {type(pixels).__name__}"
        )
        raise UsageError(f"an image should be an array (height, width, 1 or 3), uint8, not {kind}")


def _import_opencv() -> Any:
    try:
        import cv2

        cv2.ximgproc.segmentation  # noqa: B018 - the plain opencv package lacks it
    except (ImportError, AttributeError):
        raise UserError(
            "selective search needs OpenCV with its contributed modules: pip install 'convatlas[boxes]' "
            "(and no other opencv package beside it), or take boxes.sliding_boxes, which needs nothing"
        ) from None
    return cv2
