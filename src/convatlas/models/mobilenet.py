"""MobileNet. Howard, Zhu, Chen, Kalenichenko, Wang, Weyand, Andreetto, Adam 2017, "MobileNets: Efficient
Convolutional Neural Networks for Mobile Vision Applications", arXiv:1704.04861, Table 1. Input 3 x 224 x 224.

A 3x3 convolution, 13 depthwise separable convolutions and a linear layer on the averaged features. A
separable convolution is a 3x3 on each channel, then a 1x1 across them, each followed by batch norm and ReLU
(Fig. 3). `width` is alpha of sec. 3.3; rho of sec. 3.4 is the size of the images. `CONV` and `SHALLOW` are
the networks of comparison in Tables 4 and 5.

Slips resolved
- Table 1 prints stride 2 for the last depthwise convolution, between two 7x7 grids: it is 1.
- Table 2 prints 1.19 % of the multiply-adds for the 3x3 convolution: its 10.8M of 568.7M are 1.91 %.
- Table 4 prints 4866 million multiply-adds for the Conv MobileNet: that is its convolutions alone; the other
  entries include the linear layer.
Unstated: padding (ours: 1 on each side), dropout (ours: none), batch norm's constants (ours: torch's), the
initialisation (ours: that of the authors' release, truncated Gaussians of standard deviation 0.09, biases
zero).

Edition `timm` (its `mobilenetv1_100`): ReLU6, as in the authors' release; Gaussians of variance 2 / fan-out,
the linear layer uniform within 1 / sqrt(classes). At widths other than 1 that library rounds channels to
multiples of 8. This edition does not, and agrees with it where the rounding changes nothing, as at 1.25.
"""

import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import nn

from convatlas.layers.conv import conv_norm
from convatlas.layers.init import truncated_normal
from convatlas.models.network import ImageSize, ModelEntry, Network, scale_channels


@dataclass(frozen=True)
class Row:
    """Two lines of Table 1: "Conv dw" with its stride, and the 1x1 "Conv" with its filters."""

    filters: int
    stride: int = 1


TABLE_1 = (
    Row(64),
    Row(128, stride=2),
    Row(128),
    Row(256, stride=2),
    Row(256),
    Row(512, stride=2),
    *[Row(512)] * 5,
    Row(1024, stride=2),
    Row(1024),
)

Activation = Callable[..., nn.Module]
Block = Callable[[int, int, int, Activation], nn.Sequential]
"""(channels in, channels out, stride, activation) -> module"""


def separable_conv(c_in: int, c_out: int, stride: int, activation: Activation = nn.ReLU) -> nn.Sequential:
    """Fig. 3 right: 3x3 depthwise, batch norm, ReLU, 1x1, batch norm, ReLU."""
    return nn.Sequential(
        OrderedDict(
            depthwise=conv_norm(c_in, c_in, 3, stride, groups=c_in),
            relu1=activation(inplace=True),
            pointwise=conv_norm(c_in, c_out, 1),
            relu2=activation(inplace=True),
        )
    )


def standard_conv(c_in: int, c_out: int, stride: int, activation: Activation = nn.ReLU) -> nn.Sequential:
    """Fig. 3 left: 3x3, batch norm, ReLU."""
    return nn.Sequential(OrderedDict(conv=conv_norm(c_in, c_out, 3, stride), relu=activation(inplace=True)))


def init_timm(module: nn.Module) -> None:
    """The initialisation of the edition `timm`."""
    if isinstance(module, nn.Conv2d):
        fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels // module.groups
        nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
    elif isinstance(module, nn.Linear):
        bound = 1 / math.sqrt(module.out_features)
        nn.init.uniform_(module.weight, -bound, bound)
        nn.init.zeros_(module.bias)


init_as_released = truncated_normal(0.09)  # tensorflow/models, slim, mobilenet_v1.py


@dataclass(frozen=True)
class Parts:
    """The parts in which networks and editions differ.

    `se_layer` builds the squeeze and excitation on a block's output from its channels.
    """

    rows: tuple[Row, ...] = TABLE_1
    block: Block = separable_conv
    activation: Activation = nn.ReLU
    se_layer: Callable[[int], nn.Module] | None = None
    init_weights: Callable[[nn.Module], None] = init_as_released


CONV = Parts(block=standard_conv)  # Table 4
SHALLOW = Parts(
    rows=TABLE_1[:6] + TABLE_1[11:]
)  # Table 5: without the five rows that keep the 14x14 grid and 512 channels


class MobileNet(Network):
    """images (n, in_chans, h, w) of any size (the paper: 224x224, 192, 160, 128) -> logits (n, num_classes).

    `dropout` drops the pooled features.
    """

    def __init__(
        self,
        parts: Parts,
        num_classes: int = 1000,
        in_chans: int = 3,
        width: float = 1.0,
        image_size: ImageSize = None,  # no layer depends on it: the features are averaged over the grid
        dropout: float = 0.0,
    ):
        super().__init__(in_chans)
        c = scale_channels(32, width)
        self.conv1 = conv_norm(in_chans, c, 3, 2)
        self.relu1 = parts.activation(inplace=True)
        for number, row in enumerate(parts.rows, start=1):
            c_out = scale_channels(row.filters, width)
            block = parts.block(c, c_out, row.stride, parts.activation)
            if parts.se_layer:
                block.add_module("se", parts.se_layer(c_out))
            self.add_module(f"block{number}", block)
            c = c_out
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(c, num_classes)
        self.initialize(parts.init_weights)


TIMM = Parts(activation=nn.ReLU6, init_weights=init_timm)
ENTRIES = [
    ModelEntry(
        name="mobilenet_v1",
        builders={"paper": partial(MobileNet, Parts()), "timm": partial(MobileNet, TIMM)},
        paper="MobileNets: Efficient Convolutional Neural Networks for Mobile Vision Applications",
        year=2017,
        source="arXiv:1704.04861, Table 1",
        input=(3, 224, 224),
        headline="top-1 29.4 %, ImageNet, protocol unstated (Table 4: accuracy 70.6 %)",
    )
]
