"""Pixels of more than 8 bits, reduced to 8 by one scale for all images of a data set.

The scale is a range of values: its ends become 0 and 255, values between them are rounded, values outside are
clipped. A pixel of the result therefore depends on that pixel of the file alone. Images of 8 bits keep their
values, whatever the scale.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

DEEP_MODES = ("I", "F")  # the first letter of Pillow's modes of more than 8 bits
_UNSIGNED_16 = ("I;16", "I;16L", "I;16B", "I;16N")
_BITS_TAG, _SAMPLE_FORMAT_TAG = 258, 339  # in TIFF
_UNSIGNED = 1  # a TIFF's sample format
# The bit depths of cameras and scanners. A file of 16 bits often holds values of fewer.
SENSOR_BITS = (8, 10, 12, 14, 16)

ValueRange = tuple[float, float]
BIT_DEPTH_RANGE: dict[str, ValueRange] = dict.fromkeys(_UNSIGNED_16, (0.0, 65535.0))


def deep_values(image: Image.Image, file: Image.Image | None = None) -> NDArray[np.generic]:
    """The values of a loaded image, or of a part of `file`: (height, width).

    Raises ValueError for values that are not finite.
    """
    values = np.asarray(image)
    if values.dtype.kind == "f":
        count = values.size - int(np.isfinite(values).sum())
        if count:
            raise ValueError(f"{count:,} pixels are NaN or infinite")
    tags = getattr(file or image, "tag_v2", None)  # of a TIFF
    if values.dtype == np.int32 and tags is not None:
        sample_format = tags.get(_SAMPLE_FORMAT_TAG, (_UNSIGNED,))[0]
        if sample_format == _UNSIGNED and tags.get(_BITS_TAG, (0,))[0] == 32:
            return values.view(np.uint32)  # Pillow has no mode for it
    return values


def to_uint8(values: NDArray[np.generic], value_range: ValueRange) -> NDArray[np.uint8]:
    """Scale values of any type: those of the range's ends become 0 and 255."""
    low, high = value_range
    scaled = (values.astype(np.float64) - low) * (255 / (high - low))
    pixels: NDArray[np.uint8] = np.rint(scaled.clip(0, 255)).astype(np.uint8)
    return pixels


def usual_range(low: float, high: float, is_float: bool) -> ValueRange:
    """The range to scale by, for values measured from `low` to `high`.

    Floating point numbers within 0 to 1 have that range, and integers that of the smallest bit depth that
    holds them. Other floating point numbers and negative integers have their measured range.
    """
    if is_float:
        if low >= 0 and high <= 1:
            return 0.0, 1.0
    elif low >= 0:
        bits = next((bits for bits in SENSOR_BITS if high < 1 << bits), int(high).bit_length())
        return 0.0, float((1 << bits) - 1)
    return float(low), float(high if high > low else low + 1)
