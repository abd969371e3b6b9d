"""The shift of a normalisation without its scaling."""

import torch
from torch import Tensor, nn


class ChannelBias(nn.Module):
    """x + bias, one bias a channel, from 0 on. The shape (n, channels, h, w) stays the same.

    It is what remains of batch norm without normalisation: its shift takes the place of the convolution's
    bias (arXiv:1502.03167, sec. 3.2).
    """

    def __init__(self, channels: int):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bias[:, None, None]

    def extra_repr(self) -> str:
        return str(len(self.bias))
