"""Weight normalisation. Salimans, Kingma 2016, "Weight Normalization: A Simple Reparameterization to
Accelerate Training of Deep Neural Networks", arXiv:1602.07868."""

import torch
from torch import Tensor, nn


class WeightNormConv2d(nn.Conv2d):
    """nn.Conv2d with w = g v / ||v|| for each filter, eq. 2; v is `weight`, g is `gain`.

    `add_weight_norm` makes one of a convolution.
    """

    gain: nn.Parameter

    def forward(self, input: Tensor) -> Tensor:
        weight = self.gain * self.weight / filter_norms(self.weight)
        if self.kernel_size == (1, 1) and self.padding == (0, 0) and self.stride != (1, 1):
            # torch's own gradient corrupts memory where channels are few: subsampled_conv.py
            vertical, horizontal = self.stride
            pixels = input[:, :, ::vertical, ::horizontal]
            return nn.functional.conv2d(pixels, weight, self.bias, groups=self.groups)
        return self._conv_forward(input, weight, self.bias)  # type: ignore[no-any-return]

    def reset_gain(self) -> None:
        """g = ||v||: the plain convolution's weights."""
        with torch.no_grad():
            self.gain.copy_(filter_norms(self.weight))


def filter_norms(weight: Tensor) -> Tensor:
    """||v|| of each filter: (out, in, h, w) -> (out, 1, 1, 1)."""
    norms: Tensor = torch.linalg.vector_norm(weight, dim=(1, 2, 3), keepdim=True)
    return norms


def add_weight_norm(conv: nn.Conv2d) -> None:
    """Normalise the weights of a convolution, in place. It computes the same until it is trained, and has a
    bias, 0 where it had none."""
    conv.__class__ = WeightNormConv2d
    assert isinstance(conv, WeightNormConv2d)
    conv.gain = nn.Parameter(filter_norms(conv.weight.detach()))
    if conv.bias is None:
        conv.bias = nn.Parameter(conv.weight.new_zeros(conv.out_channels))
