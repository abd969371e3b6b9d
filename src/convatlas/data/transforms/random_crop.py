"""Random crops of training images: records that draw a box, which is resized to the network's input size.

A crop at a random place of a resized image is a box of the original image, so cropping and resizing are one
step. With `hflip`, half of the crops are flipped horizontally, as in all these papers.
"""

import math
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from convatlas.data.images.decode import SizedImage
from convatlas.data.images.resize import Box
from convatlas.storage.records import Record

Uniforms = NDArray[np.float64]  # (num_uniforms,), in [0, 1): the random numbers for one crop of one sample


class RandomResizedCrop(Record, frozen=True, tag=True, kw_only=True):
    """A box of a random area and aspect ratio: uniform in 8 to 100 % of the image's area, 3/4 to 4/3.

    Szegedy 2014, sec. 6. The logarithm of the aspect ratio is uniform, which the paper does not state. A box
    that does not fit into the image is drawn again, up to ten times; then the largest central box is used.
    """

    area: tuple[float, float] = (0.08, 1.0)
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    hflip: bool = True
    max_attempts: ClassVar[int] = 10
    num_uniforms: ClassVar[int] = 4 * max_attempts

    def sample_box(self, image: SizedImage, size: tuple[int, int], u: Uniforms) -> Box:
        """Draw a box of `image` for the network's input `size`."""
        min_log_aspect, max_log_aspect = map(math.log, self.aspect)
        min_area, max_area = self.area
        for u_area, u_aspect, u_top, u_left in u.reshape(self.max_attempts, 4).tolist():
            area = image.height * image.width * (min_area + (max_area - min_area) * u_area)
            aspect = math.exp(min_log_aspect + (max_log_aspect - min_log_aspect) * u_aspect)
            height, width = round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))
            if 0 < height <= image.height and 0 < width <= image.width:
                top = int((image.height - height + 1) * u_top)
                left = int((image.width - width + 1) * u_left)
                return Box(top, left, height, width)
        aspect = min(max(image.width / image.height, self.aspect[0]), self.aspect[1])
        height = min(image.height, round(image.width / aspect))
        width = min(image.width, round(image.height * aspect))
        return Box((image.height - height) // 2, (image.width - width) // 2, height, width)


class ScaleJitter(Record, frozen=True, tag=True, kw_only=True):
    """Resize the shorter side to a random length, uniform in `resize_range`, then crop at a random place.

    He 2015, sec. 3.4: 256 to 480; Simonyan & Zisserman 2014, sec. 3.1.1: 256 to 512, or one length.
    `resize_range` is in pixels for a crop of `crop` pixels, and scales in proportion for networks of another
    input size. Raises ValueError for a crop that does not fit into the smallest of these images.
    """

    resize_range: tuple[int, int] = (256, 480)
    crop: int = 224
    hflip: bool = True
    num_uniforms: ClassVar[int] = 3

    def __post_init__(self) -> None:
        low, high = self.resize_range
        if not 0 < self.crop <= low <= high:
            raise ValueError(
                f"a crop of {self.crop} does not fit into images whose shorter side is {low} to {high}"
            )

    def sample_box(self, image: SizedImage, size: tuple[int, int], u: Uniforms) -> Box:
        """Draw a box of `image` for the network's input `size`."""
        low, high = self.resize_range
        length = low + int((high - low + 1) * u[0])
        # pixels of the image for one pixel of the crop
        scale = min(image.height, image.width) / length * self.crop / max(size)
        height = min(round(size[0] * scale), image.height)
        width = min(round(size[1] * scale), image.width)
        top = int((image.height - height + 1) * u[1])
        left = int((image.width - width + 1) * u[2])
        return Box(top, left, height, width)


class CenterSquareRandomCrop(Record, frozen=True, tag=True, kw_only=True):
    """Resize the central square to `side`, then crop `crop` pixels a side at a random place in it.

    Krizhevsky 2012, sec. 2 and 4.1: 224 of 256. With `corners` the place is one of the four corners or the
    centre (Zeiler & Fergus 2013, sec. 3). Raises ValueError for a crop larger than the square.
    """

    side: int = 256
    crop: int = 224
    corners: bool = False
    hflip: bool = True
    num_uniforms: ClassVar[int] = 2

    def __post_init__(self) -> None:
        if not 0 < self.crop <= self.side:
            raise ValueError(f"a crop of {self.crop} does not fit into a square of {self.side}")

    def sample_box(self, image: SizedImage, size: tuple[int, int], u: Uniforms) -> Box:
        """Draw a box of `image` for the network's input `size`."""
        square = min(image.height, image.width)
        height, width = (max(1, round(square * side / max(size) * self.crop / self.side)) for side in size)
        square_top = (image.height - square) // 2
        square_left = (image.width - square) // 2
        if self.corners:
            down, right = ((0, 0), (0, 2), (2, 0), (2, 2), (1, 1))[int(5 * u[0])]
            top, left = (square - height) * down // 2, (square - width) * right // 2
        else:
            top, left = int((square - height + 1) * u[0]), int((square - width + 1) * u[1])
        return Box(square_top + top, square_left + left, height, width)


Crop = RandomResizedCrop | ScaleJitter | CenterSquareRandomCrop
