"""AlexNet. Krizhevsky, Sutskever, Hinton 2012, "ImageNet Classification with Deep Convolutional Neural
Networks", NIPS, sec. 3.5 and Fig. 2. Input 3 x 227 x 227.

ReLU follows each convolution. In layers 1 and 2 local response normalisation follows (sec. 3.3), and in
layers 1, 2 and 5 overlapping max pooling, 3x3 at stride 2 (sec. 3.4). Dropout acts on the outputs of fc6 and
fc7 (sec. 4.2).

Slips resolved
- The paper prints images of 224x224: an 11x11 kernel at stride 4 without padding gives the printed 55x55 from
  227x227.
- The paper prints 253,440 neurons for layer 1: 55 x 55 x 96 is 290,400.
Unstated: padding (ours: 2 for the 5x5, 1 for the 3x3, as Fig. 2's grids need).

Edition `torchvision`: the network of "One weird trick", arXiv:1404.5997, as that library has it.
64-192-384-256-256 filters; one group; no response normalisation; images of 224x224 with padding 2; adaptive
average pooling to 6x6 before fc6, so the network takes images of any size; dropout before fc6 and fc7 instead
of after; torch's initialisation.
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
    padding: int = 0
    groups: int = 1
    norm: bool = False
    pool: bool = False

    @property
    def windows(self) -> list[tuple[int, int, int, bool]]:
        """(kernel, stride, padding, ceil) of the convolution and of the pooling."""
        return [(self.kernel, self.stride, self.padding, False)] + [(3, 2, 0, False)] * self.pool


# Sec. 3.5: the kernels of layers 2, 4 and 5 take only the maps of their own GPU, so two groups
PAPER = {
    "1": Row(96, 11, stride=4, norm=True, pool=True),
    "2": Row(256, 5, padding=2, groups=2, norm=True, pool=True),
    "3": Row(384, 3, padding=1),
    "4": Row(384, 3, padding=1, groups=2),
    "5": Row(256, 3, padding=1, groups=2, pool=True),
}
TORCHVISION = {
    "1": Row(64, 11, stride=4, padding=2, pool=True),
    "2": Row(192, 5, padding=2, pool=True),
    "3": Row(384, 3, padding=1),
    "4": Row(256, 3, padding=1),
    "5": Row(256, 3, padding=1, pool=True),
}


class AlexNet(Network):
    """images (n, in_chans, *image_size), image_size at least 67 a side -> logits (n, num_classes)."""

    def __init__(
        self,
        rows: dict[str, Row],
        num_classes: int = 1000,
        in_chans: int = 3,
        width: float = 1.0,
        image_size: ImageSize = None,
        dropout: float = 0.5,
    ):
        size = height_and_width(image_size, (227, 227))
        windows = [window for row in rows.values() for window in row.windows]
        grid_height, grid_width = (output_side(side, windows) for side in size)
        if not grid_height or not grid_width:
            raise image_too_small("alexnet", size, 67, "pool5")
        super().__init__(in_chans, fixed_size=size)
        c = add_convolutions(self, rows, in_chans, width)
        units = scale_channels(4096, width)
        head = fully_connected_head(c * grid_height * grid_width, units, num_classes, dropout)
        for name, layer in head.items():
            self.add_module(name, layer)
        self.initialize(normal(0.01))  # sec. 5; biases 1 in layers 2, 4, 5, 6 and 7, else 0
        for name in ("conv2", "conv4", "conv5", "fc6", "fc7"):
            nn.init.ones_(self.get_parameter(f"{name}.bias"))


class AlexNetTorchvision(Network):
    """images (n, in_chans, h, w), at least 63x63 -> logits (n, num_classes); `image_size` changes nothing."""

    def __init__(
        self,
        rows: dict[str, Row],
        num_classes: int = 1000,
        in_chans: int = 3,
        width: float = 1.0,
        image_size: ImageSize = None,
        dropout: float = 0.5,
    ):
        super().__init__(in_chans, min_size=63, min_size_layer="pool5")
        c = add_convolutions(self, rows, in_chans, width)
        self.avgpool = nn.AdaptiveAvgPool2d(6)
        head = fully_connected_head(c * 36, scale_channels(4096, width), num_classes, dropout)
        for name in ("flatten", "drop6", "fc6", "relu6", "drop7", "fc7", "relu7", "fc8"):
            self.add_module(name, head[name])


def add_convolutions(network: Network, rows: dict[str, Row], in_chans: int, width: float) -> int:
    """Add the layers of the rows to the network; return the channels of the last."""
    c = in_chans
    max_groups = max(row.groups for row in rows.values())
    for number, row in rows.items():
        c_out = scale_channels(
            row.channels, width, multiple=max_groups
        )  # the next layer's groups divide them
        conv = nn.Conv2d(c, c_out, row.kernel, row.stride, row.padding, groups=row.groups)
        layers = OrderedDict[str, nn.Module](conv=conv, relu=nn.ReLU(inplace=True))
        if row.norm:
            layers["norm"] = LocalResponseNorm(k=2, n=5, alpha=1e-4, beta=0.75)
        if row.pool:
            layers["pool"] = nn.MaxPool2d(3, 2)
        for name, layer in layers.items():
            network.add_module(f"{name}{number}", layer)
        c = c_out
    return c


ENTRIES = [
    ModelEntry(
        name="alexnet",
        builders={"paper": partial(AlexNet, PAPER), "torchvision": partial(AlexNetTorchvision, TORCHVISION)},
        paper="ImageNet Classification with Deep Convolutional Neural Networks",
        year=2012,
        source="NIPS 2012, sec. 3.5, Fig. 2",
        input=(3, 227, 227),
        headline="top-5 18.2 %, ILSVRC-2012 validation, 1 network, 10 crops (Table 2)",
    )
]
