"""Augmentations as records, applied to whole batches on any device: uint8 images, or float32 from 0 to 255.

Every random parameter is a function of (seed, epoch, sample index): a sample is augmented the same in any
batch.
"""

from itertools import permutations
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from convatlas.data.transforms.sample_rng import SampleRng
from convatlas.storage.records import Record


class RandomCrop(Record, frozen=True, tag=True):
    """Pad with zeros on every side, then crop at random to the old size (He 2015, sec. 4.2: 4 pixels)."""

    padding: int = 4

    def __call__(self, images: Tensor, rng: SampleRng) -> Tensor:
        n, _, h, w = images.shape
        padded = F.pad(images, [self.padding] * 4)
        windows = padded.unfold(2, h, 1).unfold(3, w, 1)  # (n, c, 2 pad + 1, 2 pad + 1, h, w), a view
        top, left = (rng.integers(2 * self.padding + 1, column).to(images.device) for column in (0, 1))
        return windows[torch.arange(n, device=images.device), :, top, left]


class RandomHorizontalFlip(Record, frozen=True, tag=True):
    """Flip each image horizontally with probability 1/2."""

    def __call__(self, images: Tensor, rng: SampleRng) -> Tensor:
        flipped = images.flip(3)
        is_flipped = rng.integers(2).bool()
        if images.is_cuda:
            return torch.where(is_flipped.to(images.device)[:, None, None, None], flipped, images)
        # on a CPU a copy of each image is ten times faster than any single operator over the batch
        for i in (~is_flipped).nonzero()[:, 0].tolist():
            flipped[i] = images[i]
        return flipped


class Lighting(Record, frozen=True, tag=True, kw_only=True):
    """Add the training set's principal components of colour, each times its variance and a normal number.

    The normal numbers have the standard deviation `std` (Krizhevsky 2012, sec. 4.1). The paper does not state
    the range of the pixels; here it is 0 to 1. Images of one channel are left unchanged.

    `components` are the eigenvectors times their eigenvalues, one column each; they are measured when a run
    is completed.
    """

    std: float = 0.1
    components: tuple[tuple[float, float, float], ...] = ()

    def with_covariance(self, covariance: Tensor) -> Self:
        """Return a copy with the components of a (3, 3) covariance of colours from 0 to 1."""
        values, vectors = torch.linalg.eigh(covariance)
        # of the two directions take the one towards white, so that the same data give the same components
        vectors = vectors * vectors.sum(0).sign()
        return self.replace(components=tuple(map(tuple, (vectors * values).tolist())))

    def __call__(self, images: Tensor, rng: SampleRng) -> Tensor:
        if images.shape[1] != 3:
            return images
        shift = self.std * rng.normals(3) @ np.array(self.components).T  # (n, 3)
        return images.float() + torch.from_numpy(255 * shift).float().to(images.device)[:, :, None, None]


class PhotometricDistort(Record, frozen=True, tag=True, kw_only=True):
    """Change contrast, brightness and colour in a random order, each by a random factor.

    The factors are uniform in `factor` (arXiv:1312.5402, sec. 2; adopted by Szegedy 2014, sec. 6). Each
    change is that of Pillow's ImageEnhance: a mixture with the mean grey, with black, with the image in grey.
    """

    factor: tuple[float, float] = (0.5, 1.5)

    def __call__(self, images: Tensor, rng: SampleRng) -> Tensor:
        u = torch.from_numpy(rng.uniforms(4)).float().to(images.device)
        low, high = self.factor
        factors = low + (high - low) * u[:, :3]
        orders = torch.tensor(list(permutations(range(3))), device=images.device)[(6 * u[:, 3]).long()]
        images = images.float()
        for operations in orders.unbind(1):  # (n,): 0 contrast, 1 brightness, 2 colour
            gray = _to_grayscale(images)
            mean_gray = gray.mean((1, 2, 3), keepdim=True).expand_as(gray)
            targets = torch.stack([mean_gray, torch.zeros_like(gray), gray])
            target = targets[operations, torch.arange(len(images), device=images.device)]
            weights = factors.gather(1, operations[:, None])[:, :, None, None]
            images = torch.lerp(target.expand_as(images), images, weights).clamp(0, 255)
        return images


def _to_grayscale(images: Tensor) -> Tensor:
    """(n, 1, h, w): the grey of ITU-R 601, as in Pillow."""
    if images.shape[1] != 3:
        return images.mean(1, keepdim=True)
    weights = images.new_tensor([0.299, 0.587, 0.114])
    return (images * weights[:, None, None]).sum(1, keepdim=True)


Augmentation = RandomCrop | RandomHorizontalFlip | Lighting | PhotometricDistort
