"""ShuffleNet V2. Ma, Zhang, Zheng, Sun 2018, "ShuffleNet V2: Practical Guidelines for Efficient CNN
Architecture Design", arXiv:1807.11164, Table 5 and Fig. 3. Input 3 x 224 x 224.

At stride 1 a unit passes the first half of its channels on and transforms the second (Fig. 3c). The first
unit of a stage, at stride 2, has two branches that transform all channels (Fig. 3d). The two halves are
concatenated and shuffled between two groups. There is no addition and no grouped 1x1.

Widths 0.5, 1, 1.5 and 2 are the columns of Table 5, which are not multiples of one another. Any other width
scales the column of 1, with even numbers in Stage2 to Stage4.

Slips resolved
- Table 5 prints 41, 146, 299 and 591 million FLOPs: convolutions and the fully connected layer take 40.5,
  144.9, 295.8 and 583.3 million multiply-adds. The parameters agree.
Unstated: padding (ours: 1 on each side of a 3x3), the initialisation (ours: He's), batch norm's constants
(ours: torch's).

Edition `torchvision`: torch's initialisation.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from convatlas.layers.conv import Concat, conv_norm, conv_norm_relu
from convatlas.layers.init import he_normal
from convatlas.layers.shuffle import ChannelShuffle
from convatlas.models.network import ImageSize, ModelEntry, Network, scale_channels


@dataclass(frozen=True)
class Column:
    """Output channels of Table 5."""

    conv1: int
    stages: tuple[int, int, int]  # Stage2, Stage3, Stage4
    conv5: int


TABLE_5 = {
    0.5: Column(24, (48, 96, 192), 1024),
    1.0: Column(24, (116, 232, 464), 1024),
    1.5: Column(24, (176, 352, 704), 1024),
    2.0: Column(24, (244, 488, 976), 2048),
}
REPEAT = (1 + 3, 1 + 7, 1 + 3)


def column_at_width(width: float) -> Column:
    """The column of Table 5, or that of 1 scaled."""
    if width in TABLE_5:
        return TABLE_5[width]
    column = TABLE_5[1.0]
    stage2, stage3, stage4 = (scale_channels(channels, width, multiple=2) for channels in column.stages)
    conv1, conv5 = scale_channels(column.conv1, width), scale_channels(column.conv5, width)
    return Column(conv1, (stage2, stage3, stage4), conv5)


class Split(nn.Module):
    """Channel split: the first half of the channels unchanged, the second through `function`, concatenated.

    The shape stays the same.
    """

    def __init__(self, function: nn.Module):
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        first, second = x.chunk(2, dim=1)
        return torch.cat((first, self.function(second)), dim=1)


def make_unit(c_in: int, c_out: int, stride: int) -> nn.Module:
    """A unit of Fig. 3c at stride 1, Fig. 3d at stride 2.

    (n, c_in, h, w) -> (n, c_out, ceil(h / stride), ceil(w / stride)).
    """
    half = c_out // 2
    function = nn.Sequential(
        OrderedDict(
            conv1=conv_norm(half if stride == 1 else c_in, half, 1),
            relu1=nn.ReLU(inplace=True),
            dwconv=conv_norm(half, half, 3, stride, groups=half),
            conv2=conv_norm(half, half, 1),
            relu2=nn.ReLU(inplace=True),
        )
    )
    halves: nn.Module
    if stride == 1:
        halves = Split(function)
    else:
        shortcut = OrderedDict(
            dwconv=conv_norm(c_in, c_in, 3, stride, groups=c_in),
            conv=conv_norm(c_in, half, 1),
            relu=nn.ReLU(inplace=True),
        )
        halves = Concat({"shortcut": nn.Sequential(shortcut), "function": function})
    return nn.Sequential(OrderedDict(halves=halves, shuffle=ChannelShuffle(2)))


class ShuffleNetV2(Network):
    """images (n, in_chans, h, w) of any size (the paper: 224x224) -> logits (n, num_classes).

    The paper has no dropout; `dropout` drops the pooled features.
    """

    def __init__(
        self,
        init_weights: Callable[[nn.Module], None] | None,  # None: torch's default
        num_classes: int = 1000,
        in_chans: int = 3,
        width: float = 1.0,
        image_size: ImageSize = None,  # no layer depends on it: the features are averaged over the grid
        dropout: float = 0.0,
    ):
        super().__init__(in_chans)
        column = column_at_width(width)
        self.conv1 = conv_norm_relu(in_chans, column.conv1, 3, 2)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        c = column.conv1
        for stage, (c_out, repeat) in enumerate(zip(column.stages, REPEAT, strict=True), start=2):
            units = [make_unit(c, c_out, stride=2)]
            units += [make_unit(c_out, c_out, stride=1) for _ in range(repeat - 1)]
            self.add_module(f"stage{stage}", nn.Sequential(*units))
            c = c_out
        self.conv5 = conv_norm_relu(c, column.conv5, 1)
        self.globalpool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(column.conv5, num_classes)
        if init_weights:
            self.initialize(init_weights)


ENTRIES = [
    ModelEntry(
        name="shufflenet_v2",
        builders={"paper": partial(ShuffleNetV2, he_normal), "torchvision": partial(ShuffleNetV2, None)},
        paper="ShuffleNet V2: Practical Guidelines for Efficient CNN Architecture Design",
        year=2018,
        source="arXiv:1807.11164, Table 5",
        input=(3, 224, 224),
        headline="top-1 30.6 %, ILSVRC-2012 validation, 1 crop (Table 8)",
    )
]
