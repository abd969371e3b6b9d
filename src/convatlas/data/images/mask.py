"""Masks: PNG files whose pixels are ids, of classes or of instances. Ids are never interpolated.

A mask is grey, of 1 to 16 bits, or has a palette, whose indices are the ids; or it has colours, each of which
stands for a class. The ids are the numbers that the file stores: Pillow would scale grey of 2 and 4 bits.
"""

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from convatlas.data.images.decode import MAX_REDUCIBLE_PIXELS, without_warnings
from convatlas.data.images.unreadable import UnreadableImage, UnreadableOnError
from convatlas.storage.regular_file import read_regular

Ids = NDArray[np.int32]  # (height, width); a colour's id is red * 65536 + green * 256 + blue

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_DEPTH_BYTE = 24  # of a PNG's header
_GRAY_STEPS = {1: 1, 2: 85, 4: 17}  # by which Pillow multiplies grey of fewer than 8 bits
_COLOR_MODES = ("RGB", "RGBA")
MIN_RING_IDS = 3  # ids of a mask that was interpolated, of whose pixels this share lies between two others
RING_SHARE = 0.9


class MaskFile:
    """A mask whose header has been read. Raises UnreadableImage."""

    def __init__(self, path: Path):
        self.name = str(path)
        with UnreadableOnError(self.name):
            self.data = read_regular(path)
            if not self.data.startswith(_SIGNATURE):
                kind = "a JPEG, whose compression changes ids" if self.data[:2] == b"\xff\xd8" else "no PNG"
                raise UnreadableImage(self.name, f"{kind}: masks should be PNG files")
            with without_warnings():
                self._image = Image.open(io.BytesIO(self.data), formats=("PNG",))
            self.width, self.height = self._image.size
            if self.width * self.height > MAX_REDUCIBLE_PIXELS:
                raise UnreadableImage(
                    self.name,
                    f"{self.width}x{self.height} pixels, more than the limit of {MAX_REDUCIBLE_PIXELS:,}",
                )

    @property
    def has_colors(self) -> bool:
        return self._image.mode in _COLOR_MODES

    def ids(self) -> Ids:
        """(height, width). Raises UnreadableImage."""
        with UnreadableOnError(self.name), without_warnings():
            self._image.load()
            if self.has_colors:
                red, green, blue = np.moveaxis(np.asarray(self._image.convert("RGB"), np.int32), 2, 0)
                colors: Ids = red << 16 | green << 8 | blue
                return colors
            if self._image.mode == "LA":
                raise UnreadableImage(self.name, "a mask with transparency: save it without")
            ids = np.asarray(self._image).astype(np.int32)
            if self._image.mode == "L":
                ids //= _GRAY_STEPS.get(self.data[_DEPTH_BYTE], 1)
            return ids


def is_interpolated(ids: Ids) -> bool:
    """Whether a mask was resized with interpolation: several ids occur almost only between a smaller and a
    larger one, as in the rings around an object."""
    values, counts = np.unique(ids, return_counts=True)
    if len(values) < MIN_RING_IDS + 2:
        return False
    is_between = (ndimage.minimum_filter(ids, 3) < ids) & (ids < ndimage.maximum_filter(ids, 3))
    between, counts_between = np.unique(ids[is_between], return_counts=True)
    shares = counts_between / counts[np.searchsorted(values, between)]
    return int((shares >= RING_SHARE).sum()) >= MIN_RING_IDS
