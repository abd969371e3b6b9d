"""From an image of any size to what the network sees: fit to a size, then standardise. Training, evaluation and prediction share it."""

from collections.abc import Iterator
from typing import Literal, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from convatlas.data import randomness
from convatlas.storage.records import Record

MOST_PADDING = 4  # pixels a side; a set whose images lack more is enlarged instead
SAMPLE = 10_000  # images of a training split that its statistics are taken from, where it has more


class Preprocessing(Record, frozen=True, kw_only=True):
    """The geometry. An image file is first brought to `source` (shorter side resized with antialiasing, centre cropped), the size of
    the images of the data set; then to `size`, which the network sees: padded with zeros where `source` is at most 4 pixels a side
    smaller, else resized with antialiasing. With "crop", as other libraries' networks want it, the centre of `source` is taken."""

    channels: int
    source: tuple[int, int]
    size: tuple[int, int]
    fit: Literal["none", "pad", "resize", "crop"]

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


def fit(channels: int, source: tuple[int, int], size: tuple[int, int]) -> Preprocessing:
    """The preprocessing that brings a data set's images to a network's size."""
    missing = [b - a for a, b in zip(source, size, strict=True)]
    way: Literal["none", "pad", "resize"] = "resize"
    if all(0 <= m <= 2 * MOST_PADDING for m in missing):
        way = "pad" if any(missing) else "none"
    return Preprocessing(channels=channels, source=source, size=size, fit=way)


class Standardiser(torch.nn.Module):
    """uint8 images (n, c, h, w) -> float32 (image / 255 - mean) / std, channels-last."""

    mean: Tensor
    std: Tensor
    scale: Tensor
    shift: Tensor

    def __init__(self, mean: Tensor, std: Tensor):
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)
        self.register_buffer("scale", 1 / (255 * std), persistent=False)
        self.register_buffer("shift", -mean / std, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        images = images.to(memory_format=torch.channels_last)
        return torch.addcmul(self.shift, images.to(self.scale.dtype), self.scale)


class _Images(Protocol):
    def __len__(self) -> int: ...
    def __getitem__(self, indices: NDArray[np.int64], /) -> NDArray[np.uint8]: ...


class ChannelStatistics(Record, frozen=True, tag=True):
    """Mean 0 and standard deviation 1 of every channel over the training images."""

    def measure(self, images: _Images, preprocessing: Preprocessing) -> Standardiser:
        total = torch.zeros(2, preprocessing.channels, dtype=torch.int64)  # integers: exact, whatever the order
        count = 0
        for batch in _chunks(images, preprocessing):
            pixels = batch.long()
            total += torch.stack([pixels.sum((0, 2, 3)), pixels.square().sum((0, 2, 3))])
            count += batch[:, 0].numel()
        mean, square = total.double() / count / torch.tensor([[255.0], [255.0**2]], dtype=torch.float64)
        std = (square - mean.square()).sqrt().clamp(min=1 / 255)
        return Standardiser(mean.float()[:, None, None], std.float()[:, None, None])


class PixelMean(Record, frozen=True, tag=True):
    """The mean image of the training set subtracted (He 2015, sec. 4.2; Krizhevsky 2012, sec. 2); pixels run from 0 to 1."""

    def measure(self, images: _Images, preprocessing: Preprocessing) -> Standardiser:
        total = torch.zeros(preprocessing.channels, *preprocessing.size, dtype=torch.int64)
        count = 0
        for batch in _chunks(images, preprocessing):
            total += batch.sum(0, dtype=torch.int64)
            count += len(batch)
        mean = (total.double() / count / 255).float()
        return Standardiser(mean, torch.ones(preprocessing.channels, 1, 1))


class PixelRange(Record, frozen=True, tag=True, kw_only=True):
    """Pixel 0 becomes `low` and 255 `high` (LeCun 1998, sec. II-B: background -0.1, foreground 1.175)."""

    low: float
    high: float

    def measure(self, images: _Images, preprocessing: Preprocessing) -> Standardiser:
        one = torch.ones(preprocessing.channels, 1, 1)
        return Standardiser(-self.low / (self.high - self.low) * one, one / (self.high - self.low))


Standardisation = ChannelStatistics | PixelMean | PixelRange


def _chunks(images: _Images, preprocessing: Preprocessing, size: int = 500) -> Iterator[Tensor]:
    indices = np.sort(randomness.order(0, 0, len(images))[:SAMPLE])
    for start in range(0, len(indices), size):
        yield preprocessing(torch.from_numpy(images[indices[start : start + size]]))
