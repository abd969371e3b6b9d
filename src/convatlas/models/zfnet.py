"""ZFNet. Zeiler, Fergus 2013, "Visualizing and Understanding Convolutional Networks", arXiv:1311.2901,
Fig. 3. Input 3 x 224 x 224.

AlexNet with a first layer of 7x7 kernels at stride 2, a second at stride 2, and no groups. Layers 1, 2 and 5
end in 3x3 max pooling at stride 2; in layers 1 and 2 contrast normalisation across maps follows. `zfnet512`
has 512, 1024, 512 maps in layers 3, 4, 5 (Tables 2, 3).

Slips resolved
- Weights are "initialized to 10^-2" (sec. 3): Gaussians of standard deviation 0.01, since equal weights would
  stay equal.
Unstated: padding (ours: 1 in layers 1 and 3 to 5, none in layer 2, and pooling that rounds up; they give
Fig. 3's grids 110, 55, 26, 13, 6); the normalisation's constants (ours: AlexNet's).
"""

from collections import OrderedDict
from dataclasses import dataclass
from functools import partial

from torch import nn

from convatlas.layers.head import fully_connected_head
from convatlas.layers.init import normal
from convatlas.layers.local_response import LocalResponseNorm
from convatlas.models.network import (
    ImageSize,
    ModelEntry,
    Network,
    height_and_width,
    image_too_small,
    output_side,
    scale_channels,
)


@dataclass(frozen=True)
class Row:
    channels: int
    kernel: int
    stride: int = 1
    padding: int = 1
    pool: bool = False
    norm: bool = False


# Fig. 3
FIG_3 = {
    "1": Row(96, 7, stride=2, pool=True, norm=True),
    "2": Row(256, 5, stride=2, padding=0, pool=True, norm=True),
    "3": Row(384, 3),
    "4": Row(384, 3),
    "5": Row(256, 3, pool=True),
}
# Table 3, "adjust layers 3,4,5: 512,1024,512 maps"
WIDER = FIG_3 | {"3": Row(512, 3), "4": Row(1024, 3), "5": Row(512, 3, pool=True)}


class ZFNet(Network):
    """images (n, in_chans, *image_size), image_size at least 47 a side -> logits (n, num_classes)."""

    def __init__(
        self,
        rows: dict[str, Row],
        num_classes: int = 1000,
        in_chans: int = 3,
        width: float = 1.0,
        image_size: ImageSize = None,
        dropout: float = 0.5,
    ):
        size = height_and_width(image_size, (224, 224))
        windows = []
        for row in rows.values():
            windows += [(row.kernel, row.stride, row.padding, False)] + [(3, 2, 0, True)] * row.pool
        grid_height, grid_width = (output_side(side, windows) for side in size)
        if not grid_height or not grid_width:
            raise image_too_small("zfnet", size, 47, "pool5")
        super().__init__(in_chans, fixed_size=size)
        c = in_chans
        for number, row in rows.items():
            c_out = scale_channels(row.channels, width)
            conv = nn.Conv2d(c, c_out, row.kernel, row.stride, row.padding)
            layers = OrderedDict[str, nn.Module](conv=conv, relu=nn.ReLU(inplace=True))
            if row.pool:
                layers["pool"] = nn.MaxPool2d(3, 2, ceil_mode=True)
            if row.norm:
                layers["norm"] = LocalResponseNorm()
            for name, layer in layers.items():
                self.add_module(f"{name}{number}", layer)
            c = c_out
        units = scale_channels(4096, width)
        head = fully_connected_head(c * grid_height * grid_width, units, num_classes, dropout)
        for name, layer in head.items():
            self.add_module(name, layer)
        self.initialize(normal(0.01))


def _entry(name: str, rows: dict[str, Row], source: str, headline: str) -> ModelEntry:
    return ModelEntry(
        name=name,
        builders={"paper": partial(ZFNet, rows)},
        paper="Visualizing and Understanding Convolutional Networks",
        year=2013,
        source=source,
        input=(3, 224, 224),
        headline=headline,
    )


_TABLE_2 = "top-5 {} %, ILSVRC-2012 validation, 1 network, 10 crops (Table 2)"
ENTRIES = [
    _entry("zfnet", FIG_3, "arXiv:1311.2901, Fig. 3", _TABLE_2.format("16.5")),
    _entry("zfnet512", WIDER, "arXiv:1311.2901, Table 3", _TABLE_2.format("16.0")),
]
