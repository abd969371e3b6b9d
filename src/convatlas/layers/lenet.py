"""The layers of LeNet-5. LeCun et al. 1998, "Gradient-Based Learning Applied to Document Recognition",
sec. II-B."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

AMPLITUDE, SLOPE = 1.7159, 2 / 3


class ScaledTanh(nn.Module):
    """f(a) = A tanh(S a), eq. 6, with A = 1.7159 and S = 2/3, so that f(1) = 1 and f(-1) = -1.

    By the logistic function s, of which torch's is three times as fast as its tanh: tanh(z) = 2 s(2z) - 1.
    The rounding error is that of A.
    """

    def forward(self, x: Tensor) -> Tensor:
        # rsub is 2 A s - A in one pass
        return torch.rsub(torch.sigmoid(2 * SLOPE * x), -AMPLITUDE, alpha=-2 * AMPLITUDE)


class Subsample(nn.Module):
    """The sum of each 2x2 square, times a trainable coefficient, plus a trainable bias; one of each per map.

    (n, c, h, w) -> (n, c, h // 2, w // 2).
    """

    def __init__(self, channels: int):
        super().__init__()
        self.coefficient = nn.Parameter(torch.empty(channels, 1, 1))
        self.bias = nn.Parameter(torch.empty(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        # four times the mean is exactly the sum
        return F.avg_pool2d(x, 2) * (4 * self.coefficient) + self.bias


class PartialConv2d(nn.Module):
    """A convolution in which each output map has only some input maps; only those kernels exist.

    `table[m]` lists the input maps of output map m (Table I). The convolution uses a dense kernel with zeros
    for the missing ones: it computes the zeros too, but is an order of magnitude faster than one convolution
    per group.

    (n, c_in, h, w) -> (n, len(table), h - kernel + 1, w - kernel + 1).
    """

    output_map: Tensor
    input_map: Tensor

    def __init__(self, c_in: int, table: Sequence[Sequence[int]], kernel: int):
        super().__init__()
        self.shape = (len(table), c_in, kernel, kernel)
        self.fan_in = [len(maps) * kernel**2 for maps in table]
        self.weight = nn.Parameter(torch.empty(sum(map(len, table)), kernel, kernel))
        self.bias = nn.Parameter(torch.empty(len(table)))
        connections = torch.tensor([(m, i) for m, maps in enumerate(table) for i in maps])
        self.register_buffer("output_map", connections[:, 0], persistent=False)
        self.register_buffer("input_map", connections[:, 1], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight.new_zeros(self.shape).index_put((self.output_map, self.input_map), self.weight)
        return F.conv2d(x, weight, self.bias)


class EuclideanRBF(nn.Module):
    """-y with y_i = sum_j (x_j - w_ij)^2, eq. 7, and fixed codes w: (n, features) -> (n, classes).

    The computation is in float32 at least.
    """

    codes: Tensor

    def __init__(self, codes: Tensor):
        super().__init__()
        self.register_buffer("codes", codes)

    def forward(self, x: Tensor) -> Tensor:
        return -(at_least_float32(x)[:, None, :] - self.codes).square().sum(dim=2)


def at_least_float32(x: Tensor) -> Tensor:
    """x in float32, or in float64 if it has that type. A leaf for `torch.fx`, which traces no conditions."""
    return x if x.dtype == torch.float64 else x.float()


torch.fx.wrap("at_least_float32")
