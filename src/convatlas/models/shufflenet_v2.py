"""ShuffleNet V2. Ma, Zhang, Zheng, Sun 2018, "ShuffleNet V2: Practical Guidelines for Efficient CNN Architecture Design",
arXiv:1807.11164, Table 5 and Fig. 3. Input 3 x 224 x 224.

A unit splits its channels in two halves, convolves one, joins them and shuffles; at stride 2 both branches convolve the whole input.

Unstated: widths other than the table's (ours: its column 1x, scaled), the initialisation (ours: He's).

Edition `torchvision`: the same network, initialised as torch does.
"""

from collections import OrderedDict
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from convatlas.layers.conv import conv_norm, conv_norm_relu
from convatlas.layers.shuffle import ChannelShuffle
from convatlas.models.network import Entry, Network, Size, scaled
from convatlas.models.resnet import he

# Table 5: output channels of Stage2, Stage3, Stage4 and Conv5; units of each stage
TABLE_5 = {0.5: (48, 96, 192, 1024), 1.0: (116, 232, 464, 1024), 1.5: (176, 352, 704, 1024), 2.0: (244, 488, 976, 2048)}
UNITS = (4, 8, 4)


def columns(width: float) -> tuple[int, int, int, int, int]:
    """Channels of Conv1, the stages and Conv5: Table 5's at its own widths, else its column 1x, scaled."""
    if width in TABLE_5:
        return (24, *TABLE_5[width])
    a, b, c, d = TABLE_5[1.0]
    return scaled(24, width, 2), scaled(a, width, 2), scaled(b, width, 2), scaled(c, width, 2), scaled(d, width)


class Unit(nn.Module):
    """Fig. 3c, or with stride 2 Fig. 3d."""

    def __init__(self, c_in: int, c_out: int, stride: int):
        super().__init__()
        self.stride, half = stride, c_out // 2
        entering = c_in if stride == 2 else half
        self.shortcut = nn.Identity() if stride == 1 else nn.Sequential(conv_norm(c_in, c_in, 3, 2, c_in), conv_norm_relu(c_in, half, 1))
        self.function = nn.Sequential(
            OrderedDict(
                conv1=conv_norm_relu(entering, half, 1),
                conv2=conv_norm(half, half, 3, stride, groups=half),
                conv3=conv_norm_relu(half, half, 1),
            )
        )
        self.shuffle = ChannelShuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        kept, convolved = (x, x) if self.stride == 2 else x.chunk(2, dim=1)
        y: Tensor = self.shuffle(torch.cat([self.shortcut(kept), self.function(convolved)], dim=1))
        return y


class ShuffleNetV2(Network):
    """images (n, in_chans, h, w) of any size (the paper: 224x224) -> logits (n, num_classes). `width` 0.5, 1.0, 1.5 and 2.0 are the
    columns of Table 5. The paper has no dropout; `dropout` drops the pooled features."""

    def __init__(
        self,
        initialise: Callable[[nn.Module], None] | None,
        num_classes: int = 1000,
        in_chans: int = 3,
        width: float = 1.0,
        image_size: Size = None,  # nothing here depends on it: the features are averaged over the grid
        dropout: float = 0.0,
    ):
        super().__init__(in_chans)
        c, *stages, c5 = columns(width)
        self.conv1 = conv_norm_relu(in_chans, c, 3, 2)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        for stage, (c_out, count) in enumerate(zip(stages, UNITS, strict=True), start=2):
            units = []
            for number in range(count):
                units.append(Unit(c, c_out, 1 if number else 2))
                c = c_out
            self.add_module(f"stage{stage}", nn.Sequential(*units))
        self.conv5 = conv_norm_relu(c, c5, 1)
        self.globalpool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(c5, num_classes)
        if initialise:
            self.apply(initialise)


ENTRIES = [
    Entry(
        name="shufflenet_v2",
        builds={"paper": partial(ShuffleNetV2, he), "torchvision": partial(ShuffleNetV2, None)},
        paper="ShuffleNet V2: Practical Guidelines for Efficient CNN Architecture Design",
        year=2018,
        source="arXiv:1807.11164, Table 5",
        input=(3, 224, 224),
        headline="top-1 30.6 %, ILSVRC-2012 validation, 1 crop (Table 8)",
    )
]
