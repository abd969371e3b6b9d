"""Strided 1x1 convolutions as convolutions of every stride-th pixel, where torch's own corrupt memory.

In torch 2.13 on a CPU with AVX2 and without AVX-512, the gradient of the weights of a strided 1x1 convolution
with fewer than 8 input channels, in channels-last memory format, corrupts the heap, and the process ends. The
projections of narrow residual networks are such convolutions.
"""

import torch
from torch import Tensor, nn

from convatlas.runtime.device import cpu_matrix_features

SAFE_CHANNELS = 8  # from which on torch's own is right


class SubsampledConv2d(nn.Conv2d):
    """A 1x1 convolution without padding: (n, c, h, w) -> the same output as nn.Conv2d's."""

    def forward(self, input: Tensor) -> Tensor:
        vertical, horizontal = self.stride
        return nn.functional.conv2d(input[:, :, ::vertical, ::horizontal], self.weight, self.bias)


def replace_strided_1x1_convs(model: nn.Module, device: torch.device) -> None:
    """Change the convolutions of `model` that torch cannot train on `device`, in place."""
    features = cpu_matrix_features()
    if device.type != "cpu" or "avx2" not in features or "avx512f" in features:
        return
    for module in model.modules():
        if type(module) is nn.Conv2d and _is_unsafe(module):
            module.__class__ = SubsampledConv2d


def _is_unsafe(conv: nn.Conv2d) -> bool:
    return (
        conv.kernel_size == (1, 1)
        and conv.stride != (1, 1)
        and conv.padding == (0, 0)
        and conv.groups == 1
        and conv.in_channels < SAFE_CHANNELS
    )
