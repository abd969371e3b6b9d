"""Normalisation of pixels for the network: mean and standard deviation, fitted to a training split."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from convatlas.data.dataset import ArrayImages, ImageSource
from convatlas.data.transforms import counter_rng
from convatlas.data.transforms.preprocessing import Preprocessing
from convatlas.storage.records import Record

# The statistics of a larger training split are measured on this many of its images.
MAX_ARRAY_SAMPLES = 10_000
MAX_FILE_SAMPLES = 2_000


class Normalizer(torch.nn.Module):
    """uint8 images (n, c, h, w) -> float32 (image / 255 - mean) / std, channels-last.

    `mean` and `std` broadcast to (c, h, w).
    """

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
        # factors for a full row of pixels: those of one pixel, three, would leave a CPU's vectors nearly
        # empty
        rows = (t.expand(1, -1, -1, images.shape[3]) for t in (self.scale, self.shift))
        scale, shift = (t.contiguous(memory_format=torch.channels_last) for t in rows)
        values = images.to(self.scale.dtype, copy=True)
        return torch.addcmul(shift, values, scale, out=values)


def color_covariance(images: ImageSource, preprocessing: Preprocessing) -> Tensor:
    """Measure the covariance of a training split's colours, from 0 to 1: (channels, channels), float64."""
    channels = preprocessing.channels
    total = torch.zeros(channels, dtype=torch.float64)
    total_square = torch.zeros(channels, channels, dtype=torch.float64)
    count = 0
    for batch in _sample_batches(images, preprocessing):
        pixels = batch.permute(0, 2, 3, 1).reshape(-1, channels).double() / 255
        total = total + pixels.sum(0)
        total_square = total_square + pixels.T @ pixels
        count += len(pixels)
    return total_square / count - torch.outer(total, total) / count**2


class ChannelMeanStd(Record, frozen=True, tag=True):
    """Mean 0 and standard deviation 1 for each channel over the training images."""

    def fit(self, images: ImageSource, preprocessing: Preprocessing) -> Normalizer:
        total = torch.zeros(2, preprocessing.channels, dtype=torch.int64)  # integers: exact in any order
        count = 0
        for batch in _sample_batches(images, preprocessing):
            pixels = batch.long()
            total += torch.stack([pixels.sum((0, 2, 3)), pixels.square().sum((0, 2, 3))])
            count += batch[:, 0].numel()
        max_values = torch.tensor([[255.0], [255.0**2]], dtype=torch.float64)
        mean, mean_square = total.double() / count / max_values
        std = (mean_square - mean.square()).sqrt().clamp(min=1 / 255)
        return Normalizer(mean.float()[:, None, None], std.float()[:, None, None])


class ChannelMean(Record, frozen=True, tag=True, kw_only=True):
    """Subtract the mean colour of the training set; pixels range from 0 to `scale`.

    Simonyan & Zisserman 2014, sec. 2.1.
    """

    scale: float = 255.0

    def fit(self, images: ImageSource, preprocessing: Preprocessing) -> Normalizer:
        mean_image = MeanImage().fit(images, preprocessing).mean
        mean = mean_image.double().mean((1, 2), keepdim=True).float()
        return Normalizer(mean, torch.full((preprocessing.channels, 1, 1), 1 / self.scale))


class MeanImage(Record, frozen=True, tag=True, kw_only=True):
    """Subtract the mean image of the training set; pixels range from 0 to `scale`.

    He 2015, sec. 4.2; Krizhevsky 2012, sec. 2.
    """

    scale: float = 1.0

    def fit(self, images: ImageSource, preprocessing: Preprocessing) -> Normalizer:
        total = torch.zeros(preprocessing.channels, *preprocessing.input_size, dtype=torch.int64)
        count = 0
        for batch in _sample_batches(images, preprocessing):
            total += batch.sum(0, dtype=torch.int64)
            count += len(batch)
        mean = (total.double() / count / 255).float()
        return Normalizer(mean, torch.full((preprocessing.channels, 1, 1), 1 / self.scale))


class PixelRange(Record, frozen=True, tag=True, kw_only=True):
    """Map pixel 0 to `low` and 255 to `high` (LeCun 1998, sec. II-B: background -0.1, foreground 1.175)."""

    low: float
    high: float

    def fit(self, images: ImageSource, preprocessing: Preprocessing) -> Normalizer:
        ones = torch.ones(preprocessing.channels, 1, 1)
        return Normalizer(-self.low / (self.high - self.low) * ones, ones / (self.high - self.low))


Normalization = ChannelMeanStd | ChannelMean | MeanImage | PixelRange


def _sample_batches(
    images: ImageSource, preprocessing: Preprocessing, batch_size: int = 100
) -> Iterator[Tensor]:
    """Yield the sampled images that can be read, in the order of the split: (n, c, h, w), uint8."""
    max_samples = MAX_ARRAY_SAMPLES if isinstance(images, ArrayImages) else MAX_FILE_SAMPLES
    indices = np.sort(counter_rng.permutation(0, 0, len(images))[:max_samples])
    for start in range(0, len(indices), batch_size):
        batch_indices = indices[start : start + batch_size]
        batch, unreadable = preprocessing.load_batch(images, batch_indices)
        if unreadable:
            batch = batch[~np.isin(batch_indices, [sample.index for sample in unreadable])]
        yield batch
