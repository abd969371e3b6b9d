"""The two ways to propose regions, as records that a detector's file holds."""

from typing import Annotated

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from convatlas.boxes.arrays import Array
from convatlas.boxes.proposals import Pixels, selective_search, sliding_boxes
from convatlas.storage.records import Record

Positive = Annotated[float, Meta(ge=0.05, le=20)]


class SlidingWindows(Record, frozen=True, kw_only=True, tag="sliding"):
    """The windows of `sliding_boxes`, about a hundred by default."""

    scales: tuple[Positive, ...] = (0.4, 0.6, 0.85)
    aspects: tuple[Positive, ...] = (0.5, 1.0, 2.0)
    step: Positive = 0.34

    def __call__(self, pixels: Pixels) -> Array:
        """pixels (height, width, channels), uint8 -> boxes (n, 4)"""
        return sliding_boxes(pixels.shape[:2], self.scales, self.aspects, self.step)


class SelectiveSearch(Record, frozen=True, kw_only=True, tag="selective"):
    """The likeliest boxes of selective search whose shorter side has `min_side` pixels or more."""

    max_boxes: Annotated[int, Meta(ge=1)] = 150
    min_side: Annotated[int, Meta(ge=1)] = 32

    def __call__(self, pixels: Pixels) -> Array:
        """pixels (height, width, channels), uint8 -> boxes (n, 4). Raises UserError as `selective_search`."""
        boxes = selective_search(pixels)
        is_large: NDArray[np.bool_] = (boxes[:, 2:] - boxes[:, :2]).min(axis=1) >= self.min_side
        return boxes[is_large][: self.max_boxes]


Proposals = SlidingWindows | SelectiveSearch
