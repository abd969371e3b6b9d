"""The residual block and its shortcuts. He et al. 2015, arXiv:1512.03385."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from convatlas.layers.conv import conv_norm

Shortcut = Callable[[int, int, int], nn.Module]
"""(channels in, channels out, stride) -> module"""


class PaddedIdentity(nn.Module):
    """Option A (sec. 3.3): every stride-th pixel, with zeros for the additional channels. No parameters."""

    def __init__(self, c_in: int, c_out: int, stride: int):
        super().__init__()
        self.stride = stride
        self.added_channels = c_out - c_in

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.added_channels))


def projection(c_in: int, c_out: int, stride: int) -> nn.Module:
    """Options B and C: a 1x1 convolution, W_s of eq. 2."""
    return conv_norm(c_in, c_out, 1, stride)


def identity_or(shortcut: Shortcut) -> Shortcut:
    """The identity where input and output have the same shape, `shortcut` where they differ."""

    def build(c_in: int, c_out: int, stride: int) -> nn.Module:
        return nn.Identity() if c_in == c_out and stride == 1 else shortcut(c_in, c_out, stride)

    return build


SHORTCUTS: dict[str, Shortcut] = {
    "A": identity_or(PaddedIdentity),
    "B": identity_or(projection),
    "C": projection,
}


class Residual(nn.Module):
    """y = ReLU(F(x) + shortcut(x)), eq. 1 and 2; without a shortcut, a block of the plain network."""

    def __init__(self, function: nn.Module, shortcut: nn.Module | None):
        super().__init__()
        self.function = function
        self.shortcut = shortcut
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.function(x)
        return self.relu(y if self.shortcut is None else y + self.shortcut(x))  # type: ignore[no-any-return]
