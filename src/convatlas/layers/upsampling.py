"""Upsampling inside a network. Long, Shelhamer, Darrell 2015, arXiv:1411.4038, sec. 3.3; its cropping, and
that of arXiv:1505.04597."""

import torch
from torch import Tensor, nn


def bilinear_kernel(size: int) -> Tensor:
    """The kernel (size, size) of a transposed convolution at stride (size + 1) // 2 that interpolates
    bilinearly."""
    factor = (size + 1) // 2
    centre = (size - 1) / 2
    line = 1 - (torch.arange(size) - centre).abs() / factor
    return line[:, None] * line


class BilinearUpsampling(nn.ConvTranspose2d):
    """A transposed convolution without bias, initialised to bilinear interpolation of each channel, and
    trainable.

    (n, channels, h, w) -> (n, channels, stride * (h - 1) + kernel, stride * (w - 1) + kernel).
    """

    def __init__(self, channels: int, kernel: int, stride: int):
        super().__init__(channels, channels, kernel, stride, bias=False)

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.weight)
        with torch.no_grad():
            # the diagonal over (channel in, channel out) is a view of shape (k, k, channels)
            self.weight.diagonal().copy_(bilinear_kernel(self.kernel_size[0])[:, :, None])


def crop(x: Tensor, like: Tensor, offset: int | None = None) -> Tensor:
    """A window of x with the grid of `like`, from `offset` rows and columns on; without an offset, the
    centre."""
    height, width = like.shape[2:]
    top = (x.shape[2] - height) // 2 if offset is None else offset
    left = (x.shape[3] - width) // 2 if offset is None else offset
    return x[:, :, top : top + height, left : left + width]
