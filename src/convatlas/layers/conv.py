"""Convolutions with what follows them, and branches side by side: what the tables of the papers call "conv" and "inception"."""

from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import Tensor, nn

Kernel = int | tuple[int, int]
Conv = Callable[..., nn.Module]
"""(channels in, channels out, kernel, stride=1, pad=None) -> module; without `pad` the grid is kept at stride 1"""


def padding(kernel: Kernel) -> tuple[int, int]:
    height, width = (kernel, kernel) if isinstance(kernel, int) else kernel
    return height // 2, width // 2


def conv_norm(c_in: int, c_out: int, kernel: Kernel, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution without bias, then batch norm; padding keeps the grid at stride 1."""
    conv = nn.Conv2d(c_in, c_out, kernel, stride, padding(kernel), groups=groups, bias=False)
    return nn.Sequential(OrderedDict(conv=conv, norm=nn.BatchNorm2d(c_out)))


def conv_relu(c_in: int, c_out: int, kernel: Kernel, stride: int = 1, pad: int | None = None) -> nn.Sequential:
    """Convolution with bias, then ReLU."""
    conv = nn.Conv2d(c_in, c_out, kernel, stride, padding(kernel) if pad is None else pad)
    return nn.Sequential(OrderedDict(conv=conv, relu=nn.ReLU(inplace=True)))


def conv_norm_relu(
    c_in: int, c_out: int, kernel: Kernel, stride: int = 1, pad: int | None = None, bias: bool = False, eps: float = 1e-5
) -> nn.Sequential:
    """Convolution, batch norm, ReLU."""
    conv = nn.Conv2d(c_in, c_out, kernel, stride, padding(kernel) if pad is None else pad, bias=bias)
    return nn.Sequential(OrderedDict(conv=conv, norm=nn.BatchNorm2d(c_out, eps=eps), relu=nn.ReLU(inplace=True)))


class Concat(nn.ModuleDict):
    """Named branches on one input, joined along channels: (n, c, h, w) -> (n, sum of the branches' channels, h', w')."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.values()], dim=1)


def chain(conv: Conv, c_in: int, *steps: tuple[int, Kernel] | tuple[int, Kernel, int] | tuple[int, Kernel, int, int]) -> nn.Sequential:
    """Convolutions one after the other; a step is (channels, kernel[, stride[, pad]])."""
    layers = []
    for c_out, *shape in steps:
        layers.append(conv(c_in, c_out, *shape))
        c_in = c_out
    return nn.Sequential(*layers)
