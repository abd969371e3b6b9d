"""The pooling of auxiliary heads."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PoolToGrid(nn.Module):
    """The average pooling of a paper for its own grid, of `paper_side` a side; for other grids adaptive
    pooling to the same output grid.

    (n, c, h, w) -> (n, c, g, g) with g = (paper_side - kernel) // stride + 1.
    """

    def __init__(self, kernel: int, stride: int, paper_side: int):
        super().__init__()
        self.kernel = kernel
        self.stride = stride
        self.paper_side = paper_side
        self.output_side = (paper_side - kernel) // stride + 1

    def forward(self, x: Tensor) -> Tensor:
        return pool_to_grid(x, self.kernel, self.stride, self.paper_side, self.output_side)

    def extra_repr(self) -> str:
        return f"kernel={self.kernel}, stride={self.stride}, paper_side={self.paper_side}"


def pool_to_grid(x: Tensor, kernel: int, stride: int, paper_side: int, output_side: int) -> Tensor:
    """The computation of `PoolToGrid`. A leaf for `torch.fx`, which traces no conditions on shapes."""
    if x.shape[2] == x.shape[3] == paper_side:
        return F.avg_pool2d(x, kernel, stride)
    return F.adaptive_avg_pool2d(x, output_side)


torch.fx.wrap("pool_to_grid")
