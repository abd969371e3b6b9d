"""Augmentations as records, applied to whole batches on whatever device they are: uint8 images, or float32 from 0 to 255.

Every parameter is drawn from (seed, epoch, sample index), so a sample meets the same fate in any batch.
"""

from dataclasses import dataclass
from itertools import permutations
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from convatlas.data.transforms import counter_rng
from convatlas.storage.records import Record


@dataclass(frozen=True)
class SampleRng:
    """Who draws: the run's seed, the epoch, the samples' indices (n,). `stream` tells one augmentation from the next."""

    seed: int
    epoch: int
    indices: NDArray[np.int64]
    stream: int

    def uniforms(self, count: int) -> NDArray[np.float64]:
        """(n, count), in [0, 1)."""
        return counter_rng.uniform(self.seed, self.epoch, self.indices[:, None], 64 * self.stream + np.arange(count))

    def normals(self, count: int) -> NDArray[np.float64]:
        """(n, count), standard normal (Box and Muller 1958)."""
        u = self.uniforms(2 * count)
        values: NDArray[np.float64] = np.sqrt(-2 * np.log1p(-u[:, :count])) * np.cos(2 * np.pi * u[:, count:])
        return values

    def integers(self, below: int, which: int = 0) -> Tensor:
        """(n,), in [0, below)."""
        return torch.from_numpy((self.uniforms(which + 1)[:, which] * below).astype(np.int64))


class PadCrop(Record, frozen=True, tag=True):
    """Pad with zeros on every side, then crop a square of the old size at random (He 2015, sec. 4.2: 4 pixels)."""

    pad: int = 4

    def __call__(self, images: Tensor, draw: SampleRng) -> Tensor:
        n, _, h, w = images.shape
        windows = F.pad(images, [self.pad] * 4).unfold(2, h, 1).unfold(3, w, 1)  # (n, c, 2 pad + 1, 2 pad + 1, h, w), a view
        down, right = (draw.integers(2 * self.pad + 1, which).to(images.device) for which in (0, 1))
        return windows[torch.arange(n, device=images.device), :, down, right]


class Flip(Record, frozen=True, tag=True):
    """Left and right exchanged for half of the samples."""

    def __call__(self, images: Tensor, draw: SampleRng) -> Tensor:
        flipped, chosen = images.flip(3), draw.integers(2).bool()
        if images.is_cuda:
            return torch.where(chosen.to(images.device)[:, None, None, None], flipped, images)
        for i in (~chosen).nonzero()[:, 0].tolist():  # ten times faster on a CPU than any one operator over the batch
            flipped[i] = images[i]
        return flipped


class Lighting(Record, frozen=True, tag=True, kw_only=True):
    """Along the principal components of the training set's colours, as much as their variance times a normal number of deviation
    `std` (Krizhevsky 2012, sec. 4.1; pixels from 0 to 1, which the paper does not say). Images of one channel are left as they are.

    `components` are the eigenvectors times their eigenvalues, a column each; measured when a run is completed.
    """

    std: float = 0.1
    components: tuple[tuple[float, float, float], ...] = ()

    def with_covariance(self, covariance: Tensor) -> Self:
        """With the components of a (3, 3) covariance of colours from 0 to 1."""
        values, vectors = torch.linalg.eigh(covariance)
        vectors = vectors * vectors.sum(0).sign()  # of the two directions the one towards white, so that the same data give the same
        return self.replace(components=tuple(map(tuple, (vectors * values).tolist())))

    def __call__(self, images: Tensor, draw: SampleRng) -> Tensor:
        if images.shape[1] != 3:
            return images
        shift = self.std * draw.normals(3) @ np.array(self.components).T  # (n, 3)
        return images.float() + torch.from_numpy(255 * shift).float().to(images.device)[:, :, None, None]


class Photometric(Record, frozen=True, tag=True, kw_only=True):
    """Contrast, brightness and colour, each times a number of `factor`, in a random order (arXiv:1312.5402, sec. 2, which Szegedy 2014,
    sec. 6, takes over). What each does is Pillow's ImageEnhance: a mixture with the mean grey, with black, with the image in grey."""

    factor: tuple[float, float] = (0.5, 1.5)

    def __call__(self, images: Tensor, draw: SampleRng) -> Tensor:
        u = torch.from_numpy(draw.uniforms(4)).float().to(images.device)
        factors = self.factor[0] + (self.factor[1] - self.factor[0]) * u[:, :3]
        orders = torch.tensor(list(permutations(range(3))), device=images.device)[(6 * u[:, 3]).long()]
        images = images.float()
        for turn in orders.unbind(1):
            # (n, c, h, w) towards which each image moves: the mean grey, black, the grey image
            grey = _to_grayscale(images)
            ends = torch.stack([grey.mean((1, 2, 3), keepdim=True).expand_as(grey), torch.zeros_like(grey), grey])
            end = ends[turn, torch.arange(len(images), device=images.device)]
            f = factors.gather(1, turn[:, None])[:, :, None, None]
            images = torch.lerp(end.expand_as(images), images, f).clamp(0, 255)
        return images


def _to_grayscale(images: Tensor) -> Tensor:
    """(n, 1, h, w): ITU-R 601, as Pillow turns colours to grey."""
    if images.shape[1] != 3:
        return images.mean(1, keepdim=True)
    weights = images.new_tensor([0.299, 0.587, 0.114])
    return (images * weights[:, None, None]).sum(1, keepdim=True)


class Elastic(Record, frozen=True, tag=True, kw_only=True):
    """Smooth displacements: normal numbers of `std` pixels on a coarse grid, between them bicubic; what lies outside the image is its
    mirror image (Ronneberger 2015, sec. 2 and 3.1: 10 pixels, 3 by 3)."""

    std: float = 10.0
    grid: int = 3

    def __call__(self, images: Tensor, draw: SampleRng) -> Tensor:
        return self._moved(images.float(), draw, "bilinear").clamp(0, 255)

    def masks(self, masks: Tensor, draw: SampleRng) -> Tensor:
        """Masks of class ids (n, h, w), moved as the images of the same draw are; ids are never mixed."""
        return self._moved(masks[:, None].float(), draw, "nearest")[:, 0].to(masks.dtype)

    def field(self, size: tuple[int, int], draw: SampleRng) -> Tensor:
        """Displacements (n, 2, h, w) in pixels, across and down."""
        coarse = torch.from_numpy(self.std * draw.normals(2 * self.grid**2)).reshape(-1, 2, self.grid, self.grid)
        return F.interpolate(coarse, size, mode="bicubic", align_corners=True)

    def _moved(self, images: Tensor, draw: SampleRng, mode: str) -> Tensor:
        h, w = images.shape[2:]
        field = self.field((h, w), draw)
        down, across = torch.meshgrid(torch.arange(h, dtype=torch.float64), torch.arange(w, dtype=torch.float64), indexing="ij")
        places = torch.stack([across, down]) + field  # in pixels
        places = 2 * places / torch.tensor([max(w - 1, 1), max(h - 1, 1)], dtype=torch.float64)[:, None, None] - 1
        grid = places.permute(0, 2, 3, 1).to(images)
        return F.grid_sample(images, grid, mode, padding_mode="reflection", align_corners=True)


Augmentation = PadCrop | Flip | Lighting | Photometric | Elastic
