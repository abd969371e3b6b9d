"""ShuffleNet. Zhang, Zhou, Lin, Sun 2017, "ShuffleNet: An Extremely Efficient Convolutional Neural Network for Mobile Devices",
arXiv:1707.01083, Table 1 and Fig. 2. Input 3 x 224 x 224.

A unit is a 1x1 convolution in groups to a quarter of its output's channels, channel shuffle, 3x3 on each channel alone, and 1x1 in
groups; at stride 2 it is concatenated with its average-pooled input, else added to its input. The first 1x1 of Stage2 is not grouped.
`groups` is g of Table 1; `width` the factor s of Table 2.

Slips resolved
- Table 1's complexities are those of the convolutions alone, the fully connected layer left out.
- "ShuffleNet s x" with 38M (0.5x) and 524M (2x) multiply-adds comes out when the 24 channels of Conv1 are scaled too; the text does not
  say so. `stem` sets them otherwise: 24 gives the 292M of 1.5x.
Unstated: channels that do not divide at some width (ours: the nearest that do), how average pooling treats the border (ours, as
released: padding counts), the initialisation (ours: He's).

Edition `pytorchcv`: the same network; its other widths leave Conv1 at 24 channels.
"""

from collections import OrderedDict
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convatlas.errors import UsageError
from convatlas.layers.conv import conv_norm
from convatlas.layers.shuffle import ChannelShuffle
from convatlas.models.network import Entry, Network, Size, scaled
from convatlas.models.resnet import he

# Table 1: output channels of Stage2, Stage3, Stage4 for g groups; units of each stage
TABLE_1 = {1: (144, 288, 576), 2: (200, 400, 800), 3: (240, 480, 960), 4: (272, 544, 1088), 8: (384, 768, 1536)}
UNITS = (4, 8, 4)


class Unit(nn.Module):
    """Fig. 2b, or with stride 2 Fig. 2c, whose branch gives the channels that its input lacks. ReLU follows the joining."""

    def __init__(self, c_in: int, c_out: int, stride: int, groups: int, first_groups: int, excite: Callable[[int], nn.Module] | None):
        super().__init__()
        inner, given = c_out // 4, c_out - c_in if stride == 2 else c_out
        self.function = nn.Sequential(
            OrderedDict(
                conv1=conv_norm(c_in, inner, 1, groups=first_groups),
                relu=nn.ReLU(inplace=True),
                shuffle=ChannelShuffle(groups),
                conv2=conv_norm(inner, inner, 3, stride, groups=inner),
                conv3=conv_norm(inner, given, 1, groups=groups),
            )
        )
        if excite:
            self.function.add_module("se", excite(given))
        self.halve = nn.AvgPool2d(3, 2, 1) if stride == 2 else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.function(x)
        return F.relu(x + y if self.halve is None else torch.cat([self.halve(x), y], dim=1), inplace=True)


class ShuffleNet(Network):
    """images (n, in_chans, h, w) of any size (the paper: 224x224) -> logits (n, num_classes).

    `groups` is 1, 2, 3, 4 or 8; `stem` the channels of Conv1, None for 24 times the width. The paper has no dropout; `dropout` drops
    the pooled features.
    """

    def __init__(
        self,
        excite: Callable[[int], nn.Module] | None,
        num_classes: int = 1000,
        in_chans: int = 3,
        width: float = 1.0,
        image_size: Size = None,  # nothing here depends on it: the features are averaged over the grid
        dropout: float = 0.0,
        groups: int = 3,
        stem: int | None = None,
    ):
        super().__init__(in_chans)
        if groups not in TABLE_1:
            raise UsageError(f"groups {groups} does not exist: Table 1 has 1, 2, 3, 4 and 8")
        if stem is not None and (stem < 1 or stem % groups):
            raise UsageError(f"stem should be a multiple of the {groups} groups, not {stem}: the units' branches divide among them")
        c = scaled(24, width, multiple=groups) if stem is None else stem
        self.conv1 = conv_norm(in_chans, c, 3, 2)
        self.relu1 = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        for stage, (channels, count) in enumerate(zip(TABLE_1[groups], UNITS, strict=True), start=2):
            c_out, units = scaled(channels, width, multiple=4 * groups), []
            if c_out <= c:  # only at widths near 0
                c_out = (c // (4 * groups) + 1) * 4 * groups
            for number in range(count):
                first_groups = 1 if stage == 2 and number == 0 else groups
                units.append(Unit(c, c_out, 1 if number else 2, groups, first_groups, excite))
                c = c_out
            self.add_module(f"stage{stage}", nn.Sequential(*units))
        self.globalpool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(c, num_classes)
        self.apply(he)


ENTRIES = [
    Entry(
        name="shufflenet_v1",
        builds={"paper": partial(ShuffleNet, None), "pytorchcv": partial(ShuffleNet, None)},
        paper="ShuffleNet: An Extremely Efficient Convolutional Neural Network for Mobile Devices",
        year=2017,
        source="arXiv:1707.01083, Table 1",
        input=(3, 224, 224),
        headline="top-1 32.6 %, ILSVRC-2012 validation, 1 crop, g = 3 (Table 2)",
    )
]
