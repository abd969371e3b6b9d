"""Convolutions with batch norm and ReLU, and parallel branches: the papers' "conv" and "inception"."""

from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import Tensor, nn

Kernel = int | tuple[int, int]
Conv = Callable[..., nn.Module]
"""(channels in, channels out, kernel, stride=1, pad=None) -> module; without `pad` stride 1 keeps the grid"""


def same_padding(kernel: Kernel) -> tuple[int, int]:
    """The padding (height, width) that keeps the grid at stride 1, for odd kernels."""
    height, width = (kernel, kernel) if isinstance(kernel, int) else kernel
    return height // 2, width // 2


def conv_norm(c_in: int, c_out: int, kernel: Kernel, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution without bias, then batch norm; stride 1 keeps the grid."""
    conv = nn.Conv2d(c_in, c_out, kernel, stride, same_padding(kernel), groups=groups, bias=False)
    return nn.Sequential(OrderedDict(conv=conv, norm=nn.BatchNorm2d(c_out)))


def conv_relu(
    c_in: int, c_out: int, kernel: Kernel, stride: int = 1, pad: int | None = None
) -> nn.Sequential:
    """Convolution with bias, then ReLU."""
    conv = nn.Conv2d(c_in, c_out, kernel, stride, same_padding(kernel) if pad is None else pad)
    return nn.Sequential(OrderedDict(conv=conv, relu=nn.ReLU(inplace=True)))


def conv_norm_relu(
    c_in: int,
    c_out: int,
    kernel: Kernel,
    stride: int = 1,
    pad: int | None = None,
    bias: bool = False,
    eps: float = 1e-5,
) -> nn.Sequential:
    """Convolution, batch norm, ReLU."""
    conv = nn.Conv2d(c_in, c_out, kernel, stride, same_padding(kernel) if pad is None else pad, bias=bias)
    return nn.Sequential(
        OrderedDict(conv=conv, norm=nn.BatchNorm2d(c_out, eps=eps), relu=nn.ReLU(inplace=True))
    )


class Concat(nn.ModuleDict):
    """Named branches on one input, concatenated along channels.

    (n, c, h, w) -> (n, sum of the branches' channels, h', w').
    """

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.values()], dim=1)


ConvStep = tuple[int, Kernel] | tuple[int, Kernel, int] | tuple[int, Kernel, int, int]
"""A convolution: (channels, kernel[, stride[, pad]])"""


def conv_chain(conv: Conv, c_in: int, *steps: ConvStep) -> nn.Sequential:
    """Convolutions that follow one another."""
    layers = []
    for c_out, *arguments in steps:
        layers.append(conv(c_in, c_out, *arguments))
        c_in = c_out
    return nn.Sequential(*layers)
