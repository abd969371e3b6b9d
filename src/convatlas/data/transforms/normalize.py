"""From pixels to what the network takes: mean and deviation, fitted to a training split."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from convatlas.data.dataset import ArrayImages, ImageSource
from convatlas.data.transforms import counter_rng
from convatlas.data.transforms.preprocessing import Preprocessing
from convatlas.storage.records import Record

MAX_ARRAY_SAMPLES, MAX_FILE_SAMPLES = 10_000, 2_000  # images of a training split that its statistics are taken from, where it has more


class Normalizer(torch.nn.Module):
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
        # a whole row of factors: over the three alone of a pixel a CPU's vectors would run nearly empty
        rows = (t.expand(1, -1, -1, images.shape[3]) for t in (self.scale, self.shift))
        scale, shift = (t.contiguous(memory_format=torch.channels_last) for t in rows)
        values = images.to(self.scale.dtype, copy=True)
        return torch.addcmul(shift, values, scale, out=values)


def color_covariance(images: ImageSource, preprocessing: Preprocessing) -> Tensor:
    """(channels, channels), float64: of the colours of a training split's pixels, from 0 to 1."""
    channels, count = preprocessing.channels, 0
    total, square = torch.zeros(channels, dtype=torch.float64), torch.zeros(channels, channels, dtype=torch.float64)
    for batch in _chunks(images, preprocessing):
        pixels = batch.permute(0, 2, 3, 1).reshape(-1, channels).double() / 255
        total, square, count = total + pixels.sum(0), square + pixels.T @ pixels, count + len(pixels)
    return square / count - torch.outer(total, total) / count**2


class ChannelStatistics(Record, frozen=True, tag=True):
    """Mean 0 and standard deviation 1 of every channel over the training images."""

    def fit(self, images: ImageSource, preprocessing: Preprocessing) -> Normalizer:
        total = torch.zeros(2, preprocessing.channels, dtype=torch.int64)  # integers: exact, whatever the order
        count = 0
        for batch in _chunks(images, preprocessing):
            pixels = batch.long()
            total += torch.stack([pixels.sum((0, 2, 3)), pixels.square().sum((0, 2, 3))])
            count += batch[:, 0].numel()
        mean, square = total.double() / count / torch.tensor([[255.0], [255.0**2]], dtype=torch.float64)
        std = (square - mean.square()).sqrt().clamp(min=1 / 255)
        return Normalizer(mean.float()[:, None, None], std.float()[:, None, None])


class ChannelMean(Record, frozen=True, tag=True, kw_only=True):
    """The mean colour of the training set subtracted (Simonyan & Zisserman 2014, sec. 2.1); pixels run from 0 to `scale`."""

    scale: float = 255.0

    def fit(self, images: ImageSource, preprocessing: Preprocessing) -> Normalizer:
        mean = PixelMean().fit(images, preprocessing).mean.double().mean((1, 2), keepdim=True).float()
        return Normalizer(mean, torch.full((preprocessing.channels, 1, 1), 1 / self.scale))


class PixelMean(Record, frozen=True, tag=True, kw_only=True):
    """The mean image of the training set subtracted (He 2015, sec. 4.2; Krizhevsky 2012, sec. 2); pixels run from 0 to `scale`."""

    scale: float = 1.0

    def fit(self, images: ImageSource, preprocessing: Preprocessing) -> Normalizer:
        total = torch.zeros(preprocessing.channels, *preprocessing.size, dtype=torch.int64)
        count = 0
        for batch in _chunks(images, preprocessing):
            total += batch.sum(0, dtype=torch.int64)
            count += len(batch)
        mean = (total.double() / count / 255).float()
        return Normalizer(mean, torch.full((preprocessing.channels, 1, 1), 1 / self.scale))


class PixelRange(Record, frozen=True, tag=True, kw_only=True):
    """Pixel 0 becomes `low` and 255 `high` (LeCun 1998, sec. II-B: background -0.1, foreground 1.175)."""

    low: float
    high: float

    def fit(self, images: ImageSource, preprocessing: Preprocessing) -> Normalizer:
        one = torch.ones(preprocessing.channels, 1, 1)
        return Normalizer(-self.low / (self.high - self.low) * one, one / (self.high - self.low))


Normalization = ChannelStatistics | ChannelMean | PixelMean | PixelRange


def _chunks(images: ImageSource, preprocessing: Preprocessing, size: int = 100) -> Iterator[Tensor]:
    most = MAX_ARRAY_SAMPLES if isinstance(images, ArrayImages) else MAX_FILE_SAMPLES
    indices = np.sort(counter_rng.permutation(0, 0, len(images))[:most])
    for start in range(0, len(indices), size):
        batch, unread = preprocessing.load_batch(images, chosen := indices[start : start + size])
        yield batch[~np.isin(chosen, [u.index for u in unread])] if unread else batch
