"""The classes of all pixels of an image of any size, at its own size."""

from collections.abc import Callable, Iterator
from math import ceil
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from convatlas.data.transforms.preprocessing import Preprocessing
from convatlas.segmentation.tiling import Tiling, iterate_tiles

MAX_WHOLE_PIXELS = 1 << 21  # of an image that a network with padded convolutions takes in one piece
CONTEXT = 224  # pixels on each side of a tile of a larger one: about half of FCN's receptive field, 404
BAND_VALUES = 1 << 24  # logits that are interpolated at a time


class LogitWindow(NamedTuple):
    """The logits of a part of an image: (classes, rows, columns)."""

    rows: slice
    columns: slice
    logits: Tensor


def logit_windows(
    model: Callable[[Tensor], Tensor],
    image: Tensor,
    preprocessing: Preprocessing,
    size: tuple[int, int],
    tiling: Tiling | None = None,
) -> Iterator[LogitWindow]:
    """The logits of an image in windows that cover `size` (height, width), its own, exactly once.

    `model` maps uint8 images (n, c, h, w) to logits; `image` (c, h, w) has the preprocessing's scale. At
    another scale than 1, logits are interpolated bilinearly. `tiling`: by default that of `tiling_for`.
    """
    tiling = tiling or tiling_for(preprocessing, (image.shape[1], image.shape[2]))
    tiles = iterate_tiles(model, image, tiling)
    if image.shape[1:] == size:
        yield from (LogitWindow(*tile) for tile in tiles)
        return
    scaled: Tensor | None = None
    for rows, columns, logits in tiles:
        if scaled is None:
            scaled = logits.new_empty(len(logits), *image.shape[1:], dtype=torch.float32)
        scaled[:, rows, columns] = logits
    assert scaled is not None
    band = max(1, BAND_VALUES // (len(scaled) * size[1]))
    for top in range(0, size[0], band):
        rows = slice(top, min(top + band, size[0]))
        yield LogitWindow(rows, slice(0, size[1]), _interpolate(scaled, rows, size))


def predict_mask(
    model: Callable[[Tensor], Tensor], image: Tensor, preprocessing: Preprocessing, size: tuple[int, int]
) -> NDArray[np.uint8]:
    """The most likely class of every pixel: (height, width). The arguments are those of `logit_windows`."""
    mask = np.empty(size, np.uint8)
    for rows, columns, logits in logit_windows(model, image, preprocessing, size):
        mask[rows, columns] = logits.argmax(0).byte().cpu().numpy()
    return mask


def tiling_for(preprocessing: Preprocessing, size: tuple[int, int]) -> Tiling:
    """How an image of `size` (height, width) is divided: into tiles of a network without padding, which the
    tiles' size does not change; else it is taken whole, and a large one in overlapping parts."""
    if preprocessing.margin:
        return Tiling(preprocessing.input_size, preprocessing.margin, valid=True, stride=preprocessing.stride)
    height, width = size
    if height * width <= MAX_WHOLE_PIXELS:
        return Tiling(size, 0, valid=False)
    parts = ceil((height * width / MAX_WHOLE_PIXELS) ** 0.5)
    tile = (min(height, height // parts + 2 * CONTEXT), min(width, width // parts + 2 * CONTEXT))
    return Tiling(tile, CONTEXT, valid=False)


def _interpolate(logits: Tensor, rows: slice, size: tuple[int, int]) -> Tensor:
    """The rows of bilinearly interpolated logits (classes, h, w) at `size`: (classes, rows, size[1])."""
    height = logits.shape[1]
    positions = (torch.arange(rows.start, rows.stop, dtype=torch.float64) + 0.5) * (height / size[0]) - 0.5
    positions = positions.clamp(0, height - 1)
    above = positions.floor().long()
    weight = (positions - above).to(logits)[:, None]
    lines = torch.lerp(logits[:, above], logits[:, (above + 1).clamp(max=height - 1)], weight)
    return F.interpolate(lines, size[1], mode="linear")
