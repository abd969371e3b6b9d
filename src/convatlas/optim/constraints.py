"""Constraints on the weights, applied after every step."""

import torch
from torch import nn

from convatlas.storage.records import Record


class FilterRadius(Record, frozen=True, tag=True, kw_only=True):
    """Scale each filter of a convolution whose root mean square exceeds `rms` back to it (Zeiler & Fergus
    2013, sec. 3)."""

    rms: float = 0.1

    @torch.no_grad()
    def __call__(self, module: nn.Module) -> None:
        for layer in module.modules():
            if isinstance(layer, nn.Conv2d):
                rms = layer.weight.square().mean((1, 2, 3), keepdim=True).sqrt()
                layer.weight.mul_(torch.where(rms > self.rms, self.rms / rms, 1.0))
