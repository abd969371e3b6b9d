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
    """`conv`, a 1x1 convolution without padding, with its own parameters: (n, c, h, w) -> the same output."""

    def __init__(self, conv: nn.Conv2d):
        has_bias = conv.bias is not None
        super().__init__(conv.in_channels, conv.out_channels, 1, bias=has_bias, device="meta")
        self.stride = conv.stride
        self._parameters.update(conv._parameters)
        self.training = conv.training

    def forward(self, input: Tensor) -> Tensor:
        vertical, horizontal = self.stride
        return nn.functional.conv2d(input[:, :, ::vertical, ::horizontal], self.weight, self.bias)


def replace_strided_1x1_convs(model: nn.Module, device: torch.device) -> None:
    """Replace the convolutions of `model` that torch cannot train on `device`."""
    features = cpu_matrix_features()
    if device.type != "cpu" or "avx2" not in features or "avx512f" in features:
        return
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.Conv2d and _is_unsafe(child):
                setattr(parent, name, SubsampledConv2d(child))


def _is_unsafe(conv: nn.Conv2d) -> bool:
    return (
        conv.kernel_size == (1, 1)
        and conv.stride != (1, 1)
        and conv.padding == (0, 0)
        and conv.groups == 1
        and conv.in_channels < SAFE_CHANNELS
    )
