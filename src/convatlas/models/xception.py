"""Xception. Chollet 2016, "Xception: Deep Learning with Depthwise Separable Convolutions", arXiv:1610.02357, Fig. 5.
Input 3 x 299 x 299.

36 convolutional layers in 14 modules, all but the first and the last with a residual connection: a 1x1 convolution at stride 2 in the
entry and exit flows, the identity in the middle flow. Nothing stands between the depthwise and the pointwise convolution (sec. 4.7);
batch norm follows the pointwise. 22,855,952 parameters, as Table 3 prints.

Unstated: padding (ours, as in the author's code: none in the two first convolutions, the grid kept elsewhere), the initialisation
(ours: the author's code's, Glorot's).

Edition `timm` (its `legacy_xception`): no dropout; initialised over the fan-out.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from convatlas.layers.conv import conv_norm, conv_norm_relu
from convatlas.models.bn_inception import glorot_with_norm
from convatlas.models.network import Entry, Network, Size, scaled
from convatlas.models.resnet import torchvisions


@dataclass(frozen=True)
class Row:
    """A module of Fig. 5: the channels of its separable convolutions, each after a ReLU; with `halve`, then 3x3 max pooling at stride 2."""

    channels: tuple[int, ...]
    halve: bool = True
    relu_first: bool = True


FIG_5 = {
    "entry1": Row((128, 128), relu_first=False),
    "entry2": Row((256, 256)),
    "entry3": Row((728, 728)),
    **{f"middle{number}": Row((728, 728, 728), halve=False) for number in range(1, 9)},
    "exit": Row((728, 1024)),
}


def separable(c_in: int, c_out: int) -> nn.Sequential:
    """3x3 on each channel alone, 1x1, batch norm."""
    return nn.Sequential(
        OrderedDict(
            depthwise=nn.Conv2d(c_in, c_in, 3, padding=1, groups=c_in, bias=False),
            pointwise=nn.Conv2d(c_in, c_out, 1, bias=False),
            norm=nn.BatchNorm2d(c_out),
        )
    )


class ReLU(nn.Module):
    """Not in place: its input is also what the shortcut carries on."""

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x)


class Module(nn.Module):
    """(n, c_in, h, w) -> (n, c_out, h', w'), half the grid where the row says so."""

    def __init__(self, c: int, row: Row, width: float):
        super().__init__()
        c_in, self.function = c, nn.Sequential()
        for number, channels in enumerate(row.channels, start=1):
            if number > 1 or row.relu_first:
                self.function.add_module(f"relu{number}", ReLU() if number == 1 else nn.ReLU(inplace=True))
            c_out = scaled(channels, width)
            self.function.add_module(f"sepconv{number}", separable(c, c_out))
            c = c_out
        if row.halve:
            self.function.add_module("pool", nn.MaxPool2d(3, 2, 1))
        self.shortcut = conv_norm(c_in, c, 1, 2) if row.halve else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.function(x) + self.shortcut(x)
        return y


class Xception(Network):
    """images (n, in_chans, h, w), at least 7x7 (the paper: 299x299) -> logits (n, num_classes)."""

    def __init__(
        self,
        initialise: Callable[[nn.Module], None],
        num_classes: int = 1000,
        in_chans: int = 3,
        width: float = 1.0,
        image_size: Size = None,  # nothing here depends on it: the features are averaged over the grid
        dropout: float = 0.5,
    ):
        super().__init__(in_chans, smallest=7, layer="conv2")
        c32, c, c1536, c2048 = (scaled(channels, width) for channels in (32, 64, 1536, 2048))
        self.conv1 = conv_norm_relu(in_chans, c32, 3, 2, 0)
        self.conv2 = conv_norm_relu(c32, c, 3, 1, 0)
        for name, row in FIG_5.items():
            self.add_module(name, Module(c, row, width))
            c = scaled(row.channels[-1], width)
        self.sepconv1 = separable(c, c1536)
        self.relu1 = nn.ReLU(inplace=True)
        self.sepconv2 = separable(c1536, c2048)
        self.relu2 = nn.ReLU(inplace=True)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(c2048, num_classes)
        self.apply(initialise)


class XceptionTimm(Xception):
    """images (n, in_chans, h, w), at least 7x7 -> logits (n, num_classes)."""

    def __init__(
        self, num_classes: int = 1000, in_chans: int = 3, width: float = 1.0, image_size: Size = None, dropout: float = 0.0
    ):
        super().__init__(torchvisions, num_classes, in_chans, width, image_size, dropout)


ENTRIES = [
    Entry(
        name="xception",
        builds={"paper": partial(Xception, glorot_with_norm), "timm": XceptionTimm},
        paper="Xception: Deep Learning with Depthwise Separable Convolutions",
        year=2016,
        source="arXiv:1610.02357, Fig. 5",
        input=(3, 299, 299),
        headline="top-5 accuracy 94.5 %, ILSVRC-2012 validation, 1 crop (Table 1)",
    )
]
