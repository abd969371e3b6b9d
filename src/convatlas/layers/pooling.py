"""Pooling that auxiliary heads need."""

import torch.nn.functional as F
from torch import Tensor, nn


class PoolToGrid(nn.Module):
    """The average pooling that a paper prints for a grid of its own size; from any other grid, adaptive pooling to the same result's grid.

    (n, c, h, w) -> (n, c, g, g) with g = (printed_for - kernel) // stride + 1.
    """

    def __init__(self, kernel: int, stride: int, printed_for: int):
        super().__init__()
        self.kernel, self.stride, self.printed_for = kernel, stride, printed_for
        self.grid = (printed_for - kernel) // stride + 1

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[2] == x.shape[3] == self.printed_for:
            return F.avg_pool2d(x, self.kernel, self.stride)
        return F.adaptive_avg_pool2d(x, self.grid)

    def extra_repr(self) -> str:
        return f"kernel={self.kernel}, stride={self.stride}, printed_for={self.printed_for}"
