"""From an image of any size to the network's input size. Training, evaluation and prediction share it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from convatlas.data.dataset import ArrayImages, ImageSource
from convatlas.data.images.decode import ImageLike, UnreadableImage
from convatlas.data.images.resize import resize_center_crop
from convatlas.runtime.threads import single_threaded_pool
from convatlas.storage.records import Record

MAX_PADDING = 4  # pixels a side; a set whose images lack more is enlarged instead


MAX_SIDE = 1 << 13  # pixels a side


@dataclass(frozen=True, order=True)
class UnreadableSample:
    """A sample that cannot be read: its place in the split, its file, what is wrong with it."""

    index: int
    file: str
    reason: str


class Preprocessing(Record, frozen=True, kw_only=True):
    """The geometry. An image file is first brought to `source` (shorter side resized with antialiasing, centre cropped), the size of
    the images of the data set; then to `size`, which the network sees: padded with zeros where `source` is at most 4 pixels a side
    smaller, else resized with antialiasing. With "crop", as other libraries' networks want it, the centre of `source` is taken."""

    channels: int
    source: tuple[int, int]
    size: tuple[int, int]
    fit: Literal["none", "pad", "resize", "crop"]

    def __post_init__(self) -> None:
        """Raises ValueError, which whoever reads a file says in its words, for a geometry that no image could go through."""
        for name, sides in (("source", self.source), ("size", self.size)):
            if not all(0 < side <= MAX_SIDE for side in sides):
                raise ValueError(f"{name} should be from 1 to {MAX_SIDE:,} pixels a side, not {sides[0]}x{sides[1]}")
        if self.channels < 1:
            raise ValueError(f"channels should be 1 or more, not {self.channels}")
        missing = [b - a for a, b in zip(self.source, self.size, strict=True)]
        if (self.fit == "none" and any(missing)) or (self.fit == "pad" and min(missing) < 0) or (self.fit == "crop" and max(missing) > 0):
            raise ValueError(f"{self.source[0]}x{self.source[1]} pixels do not become {self.size[0]}x{self.size[1]} by {self.fit!r}")

    def __call__(self, images: Tensor) -> Tensor:
        """images (n, channels, *source), uint8 -> (n, channels, *size), uint8."""
        if self.fit == "pad":
            top, left = ((b - a) // 2 for a, b in zip(self.source, self.size, strict=True))
            bottom, right = self.size[0] - self.source[0] - top, self.size[1] - self.source[1] - left
            return F.pad(images, (left, right, top, bottom))
        if self.fit == "crop":
            top, left = ((a - b) // 2 for a, b in zip(self.source, self.size, strict=True))
            return images[:, :, top : top + self.size[0], left : left + self.size[1]]
        if self.fit == "resize":
            return F.interpolate(images, self.size, mode="bilinear", antialias=True)
        return images

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of an image as the network sees it: (channels, height, width)."""
        return self.channels, *self.size

    def transform(self, picture: ImageLike, place: int = 0) -> Tensor:
        """A picture of any size -> (channels, *size), uint8. Raises UnreadableImage."""
        return self(resize_center_crop(picture, self.source, self.channels)[None])[0]

    def load_batch(self, images: ImageSource, indices: NDArray[np.int64]) -> tuple[Tensor, list[UnreadableSample]]:
        """(n, channels, *size), uint8, and which of them are zeros because they cannot be read."""
        if isinstance(images, ArrayImages):
            return self(torch.from_numpy(images.array[indices])), []
        return load_batch(images, indices, self.transform, self.shape)


def load_batch(
    images: ImageSource, indices: NDArray[np.int64], transform: Callable[[ImageLike, int], Tensor], shape: tuple[int, int, int]
) -> tuple[Tensor, list[UnreadableSample]]:
    """Images one by one, each by `see(picture, place)` -> `shape`: (n, *shape), uint8, channels-last; zeros for what is unreadable."""
    with torch.inference_mode(False):  # the threads below are not in the caller's inference mode, and write into it
        batch = torch.empty((len(indices), *shape), dtype=torch.uint8, memory_format=torch.channels_last)

    def some(places: range) -> list[UnreadableSample]:
        unread = []
        for place in places:
            try:
                batch[place] = transform(images.image(int(indices[place])), place)
            except UnreadableImage as error:
                batch[place] = 0
                unread.append(UnreadableSample(int(indices[place]), error.name, error.reason))
        return unread

    threads = torch.get_num_threads()  # 1 in a loader's worker
    if threads == 1:
        return batch, some(range(len(indices)))
    # decoding and resizing let other threads run
    found = single_threaded_pool(threads, "reading").map(some, [range(start, len(indices), threads) for start in range(threads)])
    return batch, [unread for part in found for unread in part]


def fixed_size_preprocessing(channels: int, source: tuple[int, int], size: tuple[int, int]) -> Preprocessing:
    """The preprocessing that brings a data set's images, of one size, to a network's size."""
    missing = [b - a for a, b in zip(source, size, strict=True)]
    way: Literal["none", "pad", "resize"] = "resize"
    if all(0 <= m <= 2 * MAX_PADDING for m in missing):
        way = "pad" if any(missing) else "none"
    return Preprocessing(channels=channels, source=source, size=size, fit=way)


def center_crop_preprocessing(channels: int, size: tuple[int, int], margin: float = 1.0) -> Preprocessing:
    """The preprocessing of photographs of any size: resized to `margin` times a network's size, the centre taken."""
    source = round(size[0] * margin), round(size[1] * margin)
    return Preprocessing(channels=channels, source=source, size=size, fit="crop" if source != size else "none")
