"""ResNet. He, Zhang, Ren, Sun 2015, "Deep Residual Learning for Image Recognition", arXiv:1512.03385.

Table 1: the networks for ImageNet, on 224x224 images. The first convolution of conv3_1, conv4_1 and conv5_1
has the stride. Sec. 4.2: the networks for CIFAR-10, 6n + 2 layers, on 32x32 images. The plain networks are
the same without shortcuts.

Unstated: the fully connected layer's initialisation (ours: that of the other layers) and batch norm's
constants (ours: torch's).

Edition `torchvision` (ImageNet): in a bottleneck the 3x3 convolution has the stride, which costs 6 % more;
convolutions are initialised over their fan-out, the fully connected layer by torch's default. ResNet-18 and
34 differ only in the initialisation.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

from torch import nn

from convatlas.errors import UsageError
from convatlas.layers.conv import conv_norm
from convatlas.layers.init import he_normal, he_normal_fan_out
from convatlas.layers.residual import SHORTCUTS, Residual, Shortcut
from convatlas.models.network import ImageSize, ModelEntry, Network, scale_channels

Block = Callable[[int, int, int], nn.Sequential]
"""(channels in, width, stride) -> the residual function F of eq. 1"""


def basic(c_in: int, width: int, stride: int) -> nn.Sequential:
    """Fig. 5 left: two 3x3 convolutions; the first has the stride."""
    return nn.Sequential(
        OrderedDict(
            conv1=conv_norm(c_in, width, 3, stride),
            relu=nn.ReLU(inplace=True),
            conv2=conv_norm(width, width, 3),
        )
    )


def bottleneck(c_in: int, width: int, stride: int, stride_in_3x3: bool = False) -> nn.Sequential:
    """Fig. 5 right: 1x1, 3x3, and 1x1 to four times the width; the first or the 3x3 has the stride."""
    strides = (1, stride) if stride_in_3x3 else (stride, 1)
    return nn.Sequential(
        OrderedDict(
            conv1=conv_norm(c_in, width, 1, strides[0]),
            relu1=nn.ReLU(inplace=True),
            conv2=conv_norm(width, width, 3, strides[1]),
            relu2=nn.ReLU(inplace=True),
            conv3=conv_norm(width, 4 * width, 1),
        )
    )


Stem = Callable[[int, float], tuple[OrderedDict[str, nn.Module], int]]
"""(in_chans, width) -> the layers before the first stage, their channels"""


def imagenet_stem(in_chans: int, width: float) -> tuple[OrderedDict[str, nn.Module], int]:
    c = scale_channels(64, width)
    layers = OrderedDict[str, nn.Module](conv1=conv_norm(in_chans, c, 7, 2), relu=nn.ReLU(inplace=True))
    layers["maxpool"] = nn.MaxPool2d(3, 2, 1)
    return layers, c


def cifar_stem(in_chans: int, width: float) -> tuple[OrderedDict[str, nn.Module], int]:
    c = scale_channels(16, width)
    return OrderedDict(conv1=conv_norm(in_chans, c, 3), relu=nn.ReLU(inplace=True)), c


@dataclass(frozen=True)
class Row:
    """Blocks and width of each stage, conv2_x first; a block gives `expansion` times its width."""

    blocks: tuple[int, ...]
    block: Block
    expansion: int = 1
    widths: tuple[int, ...] = (64, 128, 256, 512)
    stem: Stem = imagenet_stem
    shortcuts: Mapping[str, Shortcut] = field(default_factory=lambda: SHORTCUTS)
    input: tuple[int, int, int] = (3, 224, 224)

    @property
    def layers(self) -> int:
        """Weighted layers: the stem's convolution, those of the blocks, the fully connected one."""
        return 2 + sum(self.blocks) * (2 if self.expansion == 1 else 3)


TABLE_1 = {
    row.layers: row
    for row in (
        Row((2, 2, 2, 2), basic),
        Row((3, 4, 6, 3), basic),
        Row((3, 4, 6, 3), bottleneck, expansion=4),
        Row((3, 4, 23, 3), bottleneck, expansion=4),
        Row((3, 8, 36, 3), bottleneck, expansion=4),
    )
}
# Sec. 4.2 and Table 6: 2n layers on each of the 32x32, 16x16 and 8x8 grids
CIFAR = {
    row.layers: row
    for row in (
        Row((n, n, n), basic, widths=(16, 32, 64), stem=cifar_stem, input=(3, 32, 32))
        for n in (3, 5, 7, 9, 18, 200)
    )
}


class ResNet(Network):
    """images (n, in_chans, h, w) of any size (the paper: 224x224, for CIFAR 32x32) -> logits (n,
    num_classes).

    `shortcut` is option "A", "B" or "C" of sec. 3.3; None gives the plain network. The paper has no dropout;
    `dropout` drops the pooled features.
    """

    def __init__(
        self,
        row: Row,
        init_weights: Callable[[nn.Module], None],
        num_classes: int = 1000,
        in_chans: int = 3,
        width: float = 1.0,
        image_size: ImageSize = None,  # no layer depends on it: the features are averaged over the grid
        dropout: float = 0.0,
        shortcut: str | None = "B",
    ):
        super().__init__(in_chans)
        if shortcut is not None and shortcut not in row.shortcuts:
            raise UsageError(f"shortcut {shortcut!r} does not exist: expected A, B or C")
        stem, c = row.stem(in_chans, width)
        for name, layer in stem.items():
            self.add_module(name, layer)
        for stage, (filters, blocks) in enumerate(zip(row.widths, row.blocks, strict=True)):
            inner = scale_channels(filters, width)
            c_out = row.expansion * inner
            units = []
            for unit in range(blocks):
                stride = 2 if stage > 0 and unit == 0 else 1
                function = row.block(c, inner, stride)
                units.append(
                    Residual(function, row.shortcuts[shortcut](c, c_out, stride) if shortcut else None)
                )
                c = c_out
            self.add_module(f"conv{stage + 2}_x", nn.Sequential(*units))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(c, num_classes)
        self.initialize(init_weights)


def _imagenet_entry(layers: int, headline: str) -> ModelEntry:
    row = TABLE_1[layers]
    torchvision_row = row
    if row.block is bottleneck:
        torchvision_row = replace(row, block=partial(bottleneck, stride_in_3x3=True))
    return ModelEntry(
        name=f"resnet{layers}",
        builders={
            "paper": partial(ResNet, row, he_normal),
            "torchvision": partial(ResNet, torchvision_row, he_normal_fan_out),
        },
        paper=_TITLE,
        year=2015,
        source="arXiv:1512.03385, Table 1",
        input=row.input,
        headline=headline,
    )


def _plain_entry(name: str, row: Row, source: str, headline: str) -> ModelEntry:
    return ModelEntry(
        name=name,
        builders={"paper": partial(ResNet, row, he_normal, shortcut=None)},
        paper=_TITLE,
        year=2015,
        source=source,
        input=row.input,
        headline=headline,
        defaults={"num_classes": 10} if row.input[1] == 32 else {},
    )


def _cifar_entry(layers: int, headline: str) -> ModelEntry:
    return ModelEntry(
        name=f"resnet{layers}_cifar",
        builders={"paper": partial(ResNet, CIFAR[layers], he_normal)},
        paper=_TITLE,
        year=2015,
        source="arXiv:1512.03385, sec. 4.2",
        input=(3, 32, 32),
        headline=headline,
        defaults={"num_classes": 10, "shortcut": "A"},
    )


_TITLE = "Deep Residual Learning for Image Recognition"
_TABLE_2 = "top-1 {} %, ILSVRC-2012 validation, 10 crops (Table 2)"
_TABLE_3 = "top-5 {} %, ILSVRC-2012 validation, 10 crops (Table 3)"
_TABLE_6 = "{} %, CIFAR-10 test (Table 6)"
ENTRIES = [
    _imagenet_entry(18, "top-1 27.88 %, shortcut A, ILSVRC-2012 validation, 10 crops (Table 2)"),
    _imagenet_entry(34, _TABLE_3.format("7.46")),
    _imagenet_entry(50, _TABLE_3.format("6.71")),
    _imagenet_entry(101, _TABLE_3.format("6.05")),
    _imagenet_entry(152, _TABLE_3.format("5.71")),
    _plain_entry("plain18", TABLE_1[18], "arXiv:1512.03385, Table 2", _TABLE_2.format("27.94")),
    _plain_entry("plain34", TABLE_1[34], "arXiv:1512.03385, Table 2", _TABLE_2.format("28.54")),
    _cifar_entry(20, _TABLE_6.format("8.75")),
    _cifar_entry(32, _TABLE_6.format("7.51")),
    _cifar_entry(44, _TABLE_6.format("7.17")),
    _cifar_entry(56, _TABLE_6.format("6.97")),
    _cifar_entry(110, "6.61 % +- 0.16, best 6.43, CIFAR-10 test (Table 6)"),
    _cifar_entry(1202, _TABLE_6.format("7.93")),
    *(
        _plain_entry(f"plain{n}_cifar", CIFAR[n], "arXiv:1512.03385, sec. 4.2", "printed as a curve (Fig. 6)")
        for n in (20, 32, 44, 56)
    ),
    _plain_entry(
        "plain110_cifar", CIFAR[110], "arXiv:1512.03385, sec. 4.2", "over 60 %, CIFAR-10 test (sec. 4.2)"
    ),
]
