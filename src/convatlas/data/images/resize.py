"""Crop and resize images: decoding, cropping and antialiased resizing in one step, on uint8."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from convatlas.data.images.decode import ImageLike, Pixels
from convatlas.data.images.deep_pixels import ValueRange

# A JPEG is decoded at reduced scale only if that leaves this many times the output's pixels a side, so that
# antialiasing still has the detail to average.
MIN_OVERSAMPLING = 2


class Box(NamedTuple):
    """A rectangle of an image, in its pixels."""

    top: int
    left: int
    height: int
    width: int


def crop_resize(
    image: ImageLike,
    box: Box,
    size: tuple[int, int],
    channels: int,
    value_range: ValueRange | None = None,
) -> Tensor:
    """Crop `box` out of an image and resize it: (channels, *size), uint8, channels-last.

    Here and below, `value_range` scales pixels of more than 8 bits.

    For an image that is decoded at reduced scale, the crop is the nearest box of whole pixels.
    """
    full_size = image.height * size[0] / box.height, image.width * size[1] / box.width
    pixels = _decode_for(image, full_size, channels, value_range)
    scale_y, scale_x = pixels.shape[0] / image.height, pixels.shape[1] / image.width
    top, bottom = round(box.top * scale_y), round((box.top + box.height) * scale_y)
    left, right = round(box.left * scale_x), round((box.left + box.width) * scale_x)
    return resize(pixels[top : max(bottom, top + 1), left : max(right, left + 1)], size)


def resize_center_crop(
    image: ImageLike, size: tuple[int, int], channels: int, value_range: ValueRange | None = None
) -> Tensor:
    """Resize an image so that it just covers `size`, then crop the centre: (channels, *size), uint8."""
    scale = max(size[0] / image.height, size[1] / image.width)
    full_size = max(size[0], int(image.height * scale)), max(size[1], int(image.width * scale))
    pixels = _decode_for(image, full_size, channels, value_range)
    top, left = (round((full - side) / 2) for full, side in zip(full_size, size, strict=True))
    return resize(pixels, full_size)[:, top : top + size[0], left : left + size[1]]


def resize_to_each(
    image: ImageLike,
    sizes: Sequence[tuple[int, int]],
    channels: int,
    value_range: ValueRange | None = None,
) -> list[Tensor]:
    """Resize an image to each of `sizes`, decoding it once: (channels, *size), uint8, channels-last."""
    max_size = max(height for height, _ in sizes), max(width for _, width in sizes)
    pixels = _decode_for(image, max_size, channels, value_range)
    return [resize(pixels, size) for size in sizes]


def _decode_for(
    image: ImageLike, full_size: tuple[float, float], channels: int, value_range: ValueRange | None
) -> Pixels:
    """Decode an image that is to be resized to about `full_size` (height, width)."""
    min_height = min(image.height, math.ceil(MIN_OVERSAMPLING * full_size[0]))
    min_width = min(image.width, math.ceil(MIN_OVERSAMPLING * full_size[1]))
    return image.decode(channels, (min_height, min_width), value_range)


def resize(pixels: Pixels, size: tuple[int, int]) -> Tensor:
    """(h, w, c) -> (c, *size), uint8, channels-last."""
    if not (pixels.flags.c_contiguous and pixels.flags.writeable):
        pixels = pixels.copy()
    # torch has vectorised code for this memory format only, and recognises it only with a batch dimension
    image = torch.from_numpy(pixels)[None].permute(0, 3, 1, 2)
    if image.shape[2:] != size:
        # the operator behind F.interpolate(mode="bilinear", antialias=True): the argument checks of that
        # function would take a tenth of the time of an image from a packed store
        image = torch._C._nn._upsample_bilinear2d_aa(image, size, False, None)
    return image[0]
