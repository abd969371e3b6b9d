"""R-CNN's transformation between a proposal and a box, and the overlap of boxes. arXiv:1311.2524, appendix C.

Boxes are x1, y1, x2, y2 in pixels, edges of the continuous plane: a box over the first pixel alone is
(0, 0, 1, 1). Arrays, tensors and lists are accepted; results are computed in float64, without a gradient, and
are of the kind of the first argument.
"""

from typing import overload

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from convatlas.boxes.arrays import Array, Numbers, Values, as_boxes, as_rows, check_same_length, same_kind
from convatlas.errors import UsageError

# Where a regressor extrapolates, a side is scaled by at most this much (as in Detectron: 1000 pixels from 16)
MAX_SCALE = 1000 / 16


@overload
def encode(proposals: Tensor, targets: Values) -> Tensor: ...
@overload
def encode(proposals: Numbers, targets: Values) -> NDArray[np.float64]: ...
def encode(proposals: Values, targets: Values) -> NDArray[np.float64] | Tensor:
    """The regression targets t_x, t_y, t_w, t_h (n, 4) of proposals (n, 4) and their boxes (n, 4): the shift
    of the centre in widths and heights of the proposal, and the logarithms of the ratios of the sides.

    arXiv:1311.2524, eq. (6) to (9). Raises UsageError for boxes that are inverted, without area or not
    finite.
    """
    p, g = as_boxes(proposals, "proposals"), as_boxes(targets, "targets")
    check_same_length(p, "proposals", g, "targets")
    p_sides, g_sides = p[:, 2:] - p[:, :2], g[:, 2:] - g[:, :2]
    shifts = (g[:, :2] + g[:, 2:] - p[:, :2] - p[:, 2:]) / 2
    with np.errstate(over="ignore", divide="ignore", under="ignore"):
        deltas = np.hstack([shifts / p_sides, np.log(g_sides / p_sides)])
    wrong = ~np.isfinite(deltas).all(axis=1)
    if wrong.any():
        index = int(wrong.argmax())
        raise UsageError(f"proposals[{index}] is too small for its box: their ratio is no finite number")
    return same_kind(deltas, proposals)


@overload
def decode(proposals: Tensor, deltas: Values, max_scale: float | None = None) -> Tensor: ...
@overload
def decode(proposals: Numbers, deltas: Values, max_scale: float | None = None) -> NDArray[np.float64]: ...
def decode(proposals: Values, deltas: Values, max_scale: float | None = None) -> NDArray[np.float64] | Tensor:
    """The boxes (n, 4) that deltas t_x, t_y, t_w, t_h (n, 4) make of proposals (n, 4): the inverse of
    `encode`.

    arXiv:1311.2524, eq. (1) to (4). With `max_scale` no side grows by more than that factor. Raises
    UsageError for proposals as in `encode`, and for deltas that lead beyond all coordinates.
    """
    p, t = (
        as_boxes(proposals, "proposals"),
        as_rows(deltas, "deltas", 4, "t_x, t_y, t_w, t_h of shape (n, 4)"),
    )
    check_same_length(p, "proposals", t, "deltas")
    log_scales = t[:, 2:] if max_scale is None else np.minimum(t[:, 2:], np.log(max_scale))
    p_sides = p[:, 2:] - p[:, :2]
    with np.errstate(over="ignore", invalid="ignore"):
        half_sides = p_sides * np.exp(log_scales) / 2
        centers = p_sides * t[:, :2] + (p[:, :2] + p[:, 2:]) / 2
        boxes = np.hstack([centers - half_sides, centers + half_sides])
    wrong = ~np.isfinite(boxes).all(axis=1)
    if wrong.any():
        index = int(wrong.argmax())
        values = ", ".join(f"{value:g}" for value in t[index])
        raise UsageError(f"deltas[{index}] = ({values}) lead beyond all coordinates: give max_scale")
    return same_kind(boxes, proposals)


@overload
def iou(a: Tensor, b: Values) -> Tensor: ...
@overload
def iou(a: Numbers, b: Values) -> NDArray[np.float64]: ...
def iou(a: Values, b: Values) -> NDArray[np.float64] | Tensor:
    """Intersection over union of every pair: boxes (n, 4) and (m, 4) -> (n, m), from 0 to 1.

    A box of no area overlaps nothing. Raises UsageError for inverted boxes and values that are not finite.
    """
    boxes_a, boxes_b = as_boxes(a, "a", flat=True), as_boxes(b, "b", flat=True)
    intersections = intersection_areas(boxes_a, boxes_b)
    unions = areas(boxes_a)[:, None] + areas(boxes_b)[None] - intersections
    overlaps = np.divide(intersections, unions, out=np.zeros_like(unions), where=unions > 0)
    return same_kind(overlaps, a)


@overload
def clip(boxes: Tensor, size: tuple[int, int]) -> Tensor: ...
@overload
def clip(boxes: Numbers, size: tuple[int, int]) -> NDArray[np.float64]: ...
def clip(boxes: Values, size: tuple[int, int]) -> NDArray[np.float64] | Tensor:
    """The parts of boxes (n, 4) inside an image of `size` (height, width). A box outside is left with no
    area, at the image's border."""
    inside = as_boxes(boxes, "boxes", flat=True)
    height, width = size
    return same_kind(np.clip(inside, 0, np.array([width, height, width, height], np.float64)), boxes)


def areas(boxes: Array) -> Array:
    """(n,)"""
    sides = boxes[:, 2:] - boxes[:, :2]
    product: Array = sides[:, 0] * sides[:, 1]
    return product


def intersection_areas(a: Array, b: Array) -> Array:
    """(n, 4), (m, 4) -> (n, m)"""
    width = np.minimum(a[:, None, 2], b[None, :, 2]) - np.maximum(a[:, None, 0], b[None, :, 0])
    height = np.minimum(a[:, None, 3], b[None, :, 3]) - np.maximum(a[:, None, 1], b[None, :, 1])
    product: Array = width.clip(min=0) * height.clip(min=0)
    return product


def assign(proposals: Array, boxes: Array) -> tuple[NDArray[np.int64], Array]:
    """For each proposal (n, 4) the box (m, 4) with which its overlap is largest, and that overlap.

    Of equal overlaps, the box listed first; without boxes, index 0 and overlap 0.
    """
    if not len(boxes):
        return np.zeros(len(proposals), np.int64), np.zeros(len(proposals))
    overlaps = iou(proposals, boxes)
    return overlaps.argmax(axis=1), overlaps.max(axis=1)
