"""Xception. Chollet 2016, "Xception: Deep Learning with Depthwise Separable Convolutions", arXiv:1610.02357,
Fig. 5. Input 3 x 299 x 299.

36 convolutions in 14 modules, called blocks as in the author's release; linear residual connections around
all modules except the first and the last. A separable convolution is a 3x3 on each channel and a 1x1 across
them, with nothing in between (sec. 4.7), followed by batch norm. Dropout 0.5 precedes the logistic regression
(sec. 4.3).

Unstated: padding (ours: none in the first two convolutions, as in the author's release and as the printed
19x19x728 allows, otherwise 1 on each side), batch norm's constants (ours: torch's), the initialisation (ours:
Glorot's, that of the author's release). Only the JFT experiments have the optional fully connected layers of
Fig. 5.

Edition `timm` (its `legacy_xception`): no dropout; convolutions initialised by He's procedure over the
fan-out, the linear layer by torch's default.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn

from convatlas.layers.conv import conv_norm, conv_norm_relu
from convatlas.layers.init import glorot_uniform, he_normal_fan_out
from convatlas.models.network import ImageSize, ModelEntry, Network, scale_channels


@dataclass(frozen=True)
class Row:
    """A residual module of Fig. 5: the filters of its separable convolutions. With stride 2 it ends in 3x3
    max pooling."""

    filters: tuple[int, ...]
    stride: int = 2
    first_relu: bool = True  # whether a ReLU precedes the first convolution


CONVOLUTIONS = (32, 64)  # block1: 3x3, the first at stride 2
ENTRY_FLOW = (Row((128, 128), first_relu=False), Row((256, 256)), Row((728, 728)))
MIDDLE_FLOW = (Row((728, 728, 728), stride=1),) * 8
EXIT_FLOW = (Row((728, 1024)),)
SEPARABLE = (1536, 2048)  # block14: each followed by ReLU


def separable_conv(c_in: int, c_out: int) -> nn.Sequential:
    """A 3x3 on each channel, a 1x1 across them, batch norm."""
    return nn.Sequential(
        OrderedDict(
            depthwise=nn.Conv2d(c_in, c_in, 3, padding=1, groups=c_in, bias=False),
            pointwise=nn.Conv2d(c_in, c_out, 1, bias=False),
            norm=nn.BatchNorm2d(c_out),
        )
    )


class Block(nn.Module):
    """y = F(x) + shortcut(x), with nothing after the addition."""

    def __init__(self, c_in: int, filters: list[int], stride: int, first_relu: bool):
        super().__init__()
        self.function = nn.Sequential()
        c = c_in
        for number, c_out in enumerate(filters, start=1):
            if number > 1 or first_relu:
                # the first ReLU has the same input as the shortcut, so it must not change it in place
                self.function.add_module(f"relu{number}", nn.ReLU(inplace=number > 1))
            self.function.add_module(f"sepconv{number}", separable_conv(c, c_out))
            c = c_out
        if stride != 1:
            self.function.add_module("maxpool", nn.MaxPool2d(3, stride, 1))
        self.shortcut = nn.Identity() if c == c_in and stride == 1 else conv_norm(c_in, c, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.function(x) + self.shortcut(x)
        return y


class Xception(Network):
    """images (n, in_chans, h, w), at least 7x7 (the paper: 299x299) -> logits (n, num_classes)."""

    def __init__(
        self,
        init_weights: Callable[[nn.Module], None],
        num_classes: int = 1000,
        in_chans: int = 3,
        width: float = 1.0,
        image_size: ImageSize = None,  # no layer depends on it: the features are averaged over the grid
        dropout: float = 0.5,
    ):
        super().__init__(in_chans, min_size=7, min_size_layer="entry_flow.block1.conv2")
        c32, c = (scale_channels(filters, width) for filters in CONVOLUTIONS)
        block1 = OrderedDict[str, nn.Module](
            conv1=conv_norm_relu(in_chans, c32, 3, 2, pad=0), conv2=conv_norm_relu(c32, c, 3, pad=0)
        )
        blocks: dict[str, nn.Module] = {"block1": nn.Sequential(block1)}
        for number, row in enumerate((*ENTRY_FLOW, *MIDDLE_FLOW, *EXIT_FLOW), start=2):
            filters = [scale_channels(channels, width) for channels in row.filters]
            blocks[f"block{number}"] = Block(c, filters, row.stride, row.first_relu)
            c = filters[-1]
        block14 = nn.Sequential()
        for number, channels in enumerate(SEPARABLE, start=1):
            c_out = scale_channels(channels, width)
            block14.add_module(f"sepconv{number}", separable_conv(c, c_out))
            block14.add_module(f"relu{number}", nn.ReLU(inplace=True))
            c = c_out
        blocks["block14"] = block14
        flows = {"entry_flow": range(1, 5), "middle_flow": range(5, 13), "exit_flow": range(13, 15)}
        for flow, numbers in flows.items():
            self.add_module(
                flow, nn.Sequential(OrderedDict((f"block{n}", blocks[f"block{n}"]) for n in numbers))
            )
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(c, num_classes)
        self.initialize(init_weights)


class XceptionTimm(Xception):
    """images (n, in_chans, h, w), at least 7x7 -> logits (n, num_classes)."""

    def __init__(
        self,
        num_classes: int = 1000,
        in_chans: int = 3,
        width: float = 1.0,
        image_size: ImageSize = None,
        dropout: float = 0.0,
    ):
        super().__init__(he_normal_fan_out, num_classes, in_chans, width, image_size, dropout)


ENTRIES = [
    ModelEntry(
        name="xception",
        builders={"paper": partial(Xception, glorot_uniform), "timm": XceptionTimm},
        paper="Xception: Deep Learning with Depthwise Separable Convolutions",
        year=2016,
        source="arXiv:1610.02357, Fig. 5",
        input=(3, 299, 299),
        headline="top-5 5.5 %, ILSVRC-2012 validation, 1 network, 1 crop (Table 1: accuracy 0.945)",
    )
]
