"""Where a training image is cut from its photograph: records that draw a box of the picture, which is then brought to the network's size.

A crop at a random place of a resized photograph is a box of the photograph itself, so that cutting and resizing are one step. With
`mirror` half of them are exchanged left and right, as all these papers do.
"""

import math
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from convatlas.data.images.decode import ImageLike
from convatlas.data.images.resize import Box
from convatlas.storage.records import Record

Uniforms = NDArray[np.float64]  # in [0, 1): what one sample may use for one drawing


class RandomResizedCrop(Record, frozen=True, tag=True, kw_only=True):
    """A box of 8 to 100 % of the area, evenly, and an aspect ratio of 3/4 to 4/3 (Szegedy 2014, sec. 6), the ratio's logarithm evenly,
    which the paper does not say. A box that does not fit is drawn again, up to ten times; then the largest central one is taken."""

    area: tuple[float, float] = (0.08, 1.0)
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    mirror: bool = True
    tries: ClassVar[int] = 10
    uniforms: ClassVar[int] = 4 * tries

    def box(self, picture: ImageLike, size: tuple[int, int], u: Uniforms) -> Box:
        low, high = map(math.log, self.aspect)
        for area, aspect, down, across in u.reshape(self.tries, 4).tolist():
            pixels = picture.height * picture.width * (self.area[0] + (self.area[1] - self.area[0]) * area)
            ratio = math.exp(low + (high - low) * aspect)
            height, width = round(math.sqrt(pixels / ratio)), round(math.sqrt(pixels * ratio))
            if 0 < height <= picture.height and 0 < width <= picture.width:
                return Box(int((picture.height - height + 1) * down), int((picture.width - width + 1) * across), height, width)
        ratio = min(max(picture.width / picture.height, self.aspect[0]), self.aspect[1])
        height, width = min(picture.height, round(picture.width / ratio)), min(picture.width, round(picture.height * ratio))
        return Box((picture.height - height) // 2, (picture.width - width) // 2, height, width)


class ScaleJitter(Record, frozen=True, tag=True, kw_only=True):
    """The shorter side brought to a size drawn evenly from `shorter`, a crop at a random place (He 2015, sec. 3.4: 256 to 480;
    Simonyan & Zisserman 2014, sec. 3.1.1: 256 to 512, or one size). `shorter` is in pixels for a crop of `crop`, and in proportion
    for networks of another size. Raises ValueError for a crop that the smallest of these pictures does not hold."""

    shorter: tuple[int, int] = (256, 480)
    crop: int = 224
    mirror: bool = True
    uniforms: ClassVar[int] = 3

    def __post_init__(self) -> None:
        if not 0 < self.crop <= self.shorter[0] <= self.shorter[1]:
            raise ValueError(
                f"a crop of {self.crop} does not fit into pictures whose shorter side is {self.shorter[0]} to {self.shorter[1]}"
            )

    def box(self, picture: ImageLike, size: tuple[int, int], u: Uniforms) -> Box:
        shorter = self.shorter[0] + int((self.shorter[1] - self.shorter[0] + 1) * u[0])
        scale = min(picture.height, picture.width) / shorter * self.crop / max(size)  # pixels of the picture for one of the crop
        height, width = (min(round(side * scale), whole) for side, whole in zip(size, (picture.height, picture.width), strict=True))
        return Box(int((picture.height - height + 1) * u[1]), int((picture.width - width + 1) * u[2]), height, width)


class CentralPatch(Record, frozen=True, tag=True, kw_only=True):
    """The central square, brought to `side`, a crop of `crop` at a random place in it (Krizhevsky 2012, sec. 2 and 4.1: 224 of 256);
    with `corners` at one of its four corners or its centre (Zeiler & Fergus 2013, sec. 3). Raises ValueError for a crop larger than
    the square."""

    side: int = 256
    crop: int = 224
    corners: bool = False
    mirror: bool = True
    uniforms: ClassVar[int] = 2

    def __post_init__(self) -> None:
        if not 0 < self.crop <= self.side:
            raise ValueError(f"a crop of {self.crop} does not fit into a square of {self.side}")

    def box(self, picture: ImageLike, size: tuple[int, int], u: Uniforms) -> Box:
        square = min(picture.height, picture.width)
        height, width = (max(1, round(square * side / max(size) * self.crop / self.side)) for side in size)
        top, left = (picture.height - square) // 2, (picture.width - square) // 2
        if self.corners:
            down, across = ((0, 0), (0, 2), (2, 0), (2, 2), (1, 1))[int(5 * u[0])]
            return Box(top + (square - height) * down // 2, left + (square - width) * across // 2, height, width)
        return Box(top + int((square - height + 1) * u[0]), left + int((square - width + 1) * u[1]), height, width)


Crop = RandomResizedCrop | ScaleJitter | CentralPatch
