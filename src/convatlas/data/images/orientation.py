"""EXIF 2.3's Orientation: the sides of the scene at which the stored first row and column are."""

import numpy as np
from numpy.typing import NDArray

EXIF_TAG = 0x0112


def apply_orientation(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Turn and flip stored pixels (height, width, channels) as `orientation`, 1 to 8, says."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    # NumPy calls a single reversed row or column contiguous, although torch refuses its negative strides
    return pixels.copy() if 2 <= orientation <= 8 else pixels
