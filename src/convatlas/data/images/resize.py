"""A part of a picture at a size: decoded, cut and resized in one go, on uint8, with antialiasing."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from convatlas.data.images.decode import ImageLike, Pixels

SPARE = 2  # a JPEG is decoded at reduced scale only where that leaves twice the pixels a side: antialiasing then sees what it should


class Box(NamedTuple):
    """A part of a picture, in its pixels."""

    top: int
    left: int
    height: int
    width: int


def crop_resize(picture: ImageLike, box: Box, size: tuple[int, int], channels: int) -> Tensor:
    """The box of a picture brought to `size`, (channels, *size), uint8, channels-last.

    Of a JPEG decoded at reduced scale it is the nearest box of whole pixels.
    """
    pixels = _decoded(picture, (picture.height * size[0] / box.height, picture.width * size[1] / box.width), channels)
    down, across = pixels.shape[0] / picture.height, pixels.shape[1] / picture.width
    top, bottom = round(box.top * down), round((box.top + box.height) * down)
    left, right = round(box.left * across), round((box.left + box.width) * across)
    return resize(pixels[top : max(bottom, top + 1), left : max(right, left + 1)], size)


def resize_center_crop(picture: ImageLike, size: tuple[int, int], channels: int) -> Tensor:
    """The whole picture brought to the size at which it just covers `size`, then the centre cut out of it: (channels, *size), uint8."""
    scale = max(size[0] / picture.height, size[1] / picture.width)
    whole = max(size[0], int(picture.height * scale)), max(size[1], int(picture.width * scale))
    pixels = _decoded(picture, whole, channels)
    top, left = (round((a - b) / 2) for a, b in zip(whole, size, strict=True))
    return resize(pixels, whole)[:, top : top + size[0], left : left + size[1]]


def resize_to_each(picture: ImageLike, sizes: Sequence[tuple[int, int]], channels: int) -> list[Tensor]:
    """The whole picture at each of these sizes, from one decoding: (channels, *size), uint8, channels-last."""
    pixels = _decoded(picture, (max(height for height, _ in sizes), max(width for _, width in sizes)), channels)
    return [resize(pixels, size) for size in sizes]


def _decoded(picture: ImageLike, wanted: tuple[float, float], channels: int) -> Pixels:
    """The pixels of a picture that is to be brought to about the size `wanted`."""
    least = min(picture.height, math.ceil(SPARE * wanted[0])), min(picture.width, math.ceil(SPARE * wanted[1]))
    return picture.decode(channels, least)


def resize(pixels: Pixels, size: tuple[int, int]) -> Tensor:
    """(h, w, c) -> (c, *size), uint8, channels-last."""
    # for this layout alone torch has vectorised code; the batch axis must come first for torch to see the layout
    image = torch.from_numpy(np.require(pixels, requirements=["C", "W"]))[None].permute(0, 3, 1, 2)
    if image.shape[2:] != size:
        # what F.interpolate(mode="bilinear", antialias=True) calls: its questions would cost a tenth of an image from a packed store
        image = torch._C._nn._upsample_bilinear2d_aa(image, size, False, None)
    return image[0]
