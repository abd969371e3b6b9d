"""MobileNet. Howard et al. 2017, "MobileNets: Efficient Convolutional Neural Networks for Mobile Vision Applications",
arXiv:1704.04861, Table 1. Input 3 x 224 x 224.

Depthwise separable convolutions: 3x3 on each channel alone, then 1x1, each followed by batch norm and ReLU (Fig. 3). `width` is the
width multiplier alpha of Table 6; any `h` and `w` is the resolution multiplier of Table 7.

Slips resolved
- The last depthwise layer is printed "s2" on 7x7 and its output 7x7: stride 1.
Unstated: the initialisation (ours: He's).

Edition `timm`: ReLU6 in place of ReLU; initialised over the fan-out.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import nn

from convatlas.models.network import Entry, Network, Size, scaled
from convatlas.models.resnet import he, torchvisions


@dataclass(frozen=True)
class Row:
    """Two rows of Table 1: a depthwise 3x3 at `stride`, and the 1x1 that gives `channels`."""

    channels: int
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
# Table 5: "the 5 layers of separable filters with feature size 14 x 14 x 512 are removed"
SHALLOW = (*TABLE_1[:6], *TABLE_1[11:])

Convolve = Callable[[int, int, int, Callable[[], nn.Module]], "OrderedDict[str, nn.Module]"]
"""(channels in, channels out, stride, activation) -> layers"""


def conv(c_in: int, c_out: int, kernel: int, stride: int, activation: Callable[[], nn.Module], groups: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(OrderedDict(conv=convolution, norm=nn.BatchNorm2d(c_out), relu=activation()))


def separable(c_in: int, c_out: int, stride: int, activation: Callable[[], nn.Module]) -> OrderedDict[str, nn.Module]:
    """Fig. 3 right."""
    return OrderedDict(
        depthwise=conv(c_in, c_in, 3, stride, activation, groups=c_in), pointwise=conv(c_in, c_out, 1, 1, activation)
    )


def full(c_in: int, c_out: int, stride: int, activation: Callable[[], nn.Module]) -> OrderedDict[str, nn.Module]:
    """Fig. 3 left: the "Conv MobileNet" of Table 4."""
    return OrderedDict(convolution=conv(c_in, c_out, 3, stride, activation))


@dataclass(frozen=True)
class Parts:
    """`excite` is for squeeze and excitation: (channels) -> module, after each pointwise convolution."""

    rows: tuple[Row, ...] = TABLE_1
    convolve: Convolve = separable
    activation: Callable[[], nn.Module] = partial(nn.ReLU, inplace=True)
    initialise: Callable[[nn.Module], None] = he
    excite: Callable[[int], nn.Module] | None = None


class MobileNet(Network):
    """images (n, in_chans, h, w) of any size (the paper: 224x224 to 128x128) -> logits (n, num_classes). The paper has no dropout;
    `dropout` drops the pooled features."""

    def __init__(
        self,
        parts: Parts,
        num_classes: int = 1000,
        in_chans: int = 3,
        width: float = 1.0,
        image_size: Size = None,  # nothing here depends on it: the features are averaged over the grid
        dropout: float = 0.0,
    ):
        super().__init__(in_chans)
        c = scaled(32, width)
        self.conv1 = conv(in_chans, c, 3, 2, parts.activation)
        for number, row in enumerate(parts.rows, start=2):
            c_out = scaled(row.channels, width)
            layers = parts.convolve(c, c_out, row.stride, parts.activation)
            if parts.excite:
                layers["se"] = parts.excite(c_out)
            self.add_module(f"conv{number}", nn.Sequential(layers))
            c = c_out
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(c, num_classes)
        self.apply(parts.initialise)


ENTRIES = [
    Entry(
        name="mobilenet_v1",
        builds={
            "paper": partial(MobileNet, Parts()),
            "timm": partial(MobileNet, Parts(activation=partial(nn.ReLU6, inplace=True), initialise=torchvisions)),
        },
        paper="MobileNets: Efficient Convolutional Neural Networks for Mobile Vision Applications",
        year=2017,
        source="arXiv:1704.04861, Table 1",
        input=(3, 224, 224),
        headline="top-1 accuracy 70.6 %, ILSVRC-2012 validation (Table 4)",
    )
]
