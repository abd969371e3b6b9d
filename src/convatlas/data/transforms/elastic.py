"""Elastic deformation. Ronneberger, Fischer, Brox 2015, arXiv:1505.04597, sec. 3.1."""

import torch
import torch.nn.functional as F
from torch import Tensor

from convatlas.data.transforms.sample_rng import SampleRng
from convatlas.storage.records import Record


class ElasticTransform(Record, frozen=True, tag=True, kw_only=True):
    """Displace pixels smoothly: normal displacements on a coarse grid, bicubic in between.

    The displacements have a standard deviation of `std` pixels on a grid of `grid` by `grid` points (10
    pixels, 3 by 3).
    """

    std: float = 10.0
    grid: int = 3

    def displacements(self, size: tuple[int, int], rng: SampleRng) -> Tensor:
        """Displacements in pixels, (n, 2, h, w), float64: first in x, then in y."""
        coarse = torch.from_numpy(self.std * rng.normals(2 * self.grid**2))
        coarse = coarse.reshape(-1, 2, self.grid, self.grid)
        return F.interpolate(coarse, size, mode="bicubic", align_corners=True)
