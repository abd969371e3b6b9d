"""What a network costs, read off one forward on meta tensors."""

from typing import NamedTuple

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


class Cost(NamedTuple):
    params: int  # trainable
    macs: int  # multiply-adds of convolutions and linear layers, one image


def cost(module: nn.Module, input: tuple[int, int, int]) -> Cost:
    """`module` lives on the meta device; `input` is (channels, height, width)."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module.eval()(torch.empty(1, *input, device="meta"))
    return Cost(sum(p.numel() for p in module.parameters() if p.requires_grad), counter.get_total_flops() // 2)
