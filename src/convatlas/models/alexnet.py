"""AlexNet. Krizhevsky, Sutskever, Hinton 2012, "ImageNet Classification with Deep Convolutional Neural Networks", NIPS,
sec. 3.5 and Fig. 2. Input 3 x 227 x 227.

Each convolution is followed by ReLU; those of layers 1 and 2 then by local response normalisation (sec. 3.3) and, like layer 5, by
overlapping max pooling, 3x3 at stride 2 (sec. 3.4). Dropout stands on the outputs of fc6 and fc7 (sec. 4.2).

Slips resolved
- Images of 224x224 are printed: an 11x11 kernel at stride 4 without padding gives the printed 55x55 from 227x227.
- 253,440 neurons are printed for layer 1: 55 x 55 x 96 is 290,400.
Unstated: padding (ours: 2 for the 5x5, 1 for the 3x3, as Fig. 2's grids need).

Edition `torchvision`: the network of "One weird trick", arXiv:1404.5997, as that library has it. 64-192-384-256-256 filters; one
group; no response normalisation; images of 224x224 with padding 2; fc6 sees an average pooled to 6x6, so any size is taken;
dropout before fc6 and fc7 instead of after; torch's initialisation.
"""

from collections import OrderedDict
from dataclasses import dataclass
from functools import partial

from torch import nn

from convatlas.layers.head import fully_connected
from convatlas.layers.init import gaussian
from convatlas.layers.local_response import LocalResponseNorm
from convatlas.models.network import ModelEntry, Network, Size, grid, pair, scaled, too_small


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
        return [(self.kernel, self.stride, self.padding, False)] + [(3, 2, 0, False)] * self.pool


# Sec. 3.5: the kernels of layers 2, 4 and 5 see only the maps of their own GPU, two groups
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
        image_size: Size = None,
        dropout: float = 0.5,
    ):
        size = pair(image_size, (227, 227))
        height, width_ = (grid(side, (w for row in rows.values() for w in row.windows)) for side in size)
        if not height or not width_:
            raise too_small("alexnet", size, 67, "pool5")
        super().__init__(in_chans, size=size)
        c = convolutions(self, rows, in_chans, width)
        for name, layer in fully_connected(c * height * width_, scaled(4096, width), num_classes, dropout).items():
            self.add_module(name, layer)
        self.apply(gaussian(0.01))  # sec. 5; biases 1 in layers 2, 4, 5, 6 and 7, else 0
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
        image_size: Size = None,
        dropout: float = 0.5,
    ):
        super().__init__(in_chans, smallest=63, layer="pool5")
        c = convolutions(self, rows, in_chans, width)
        self.avgpool = nn.AdaptiveAvgPool2d(6)
        head = fully_connected(c * 36, scaled(4096, width), num_classes, dropout)
        for name in ("flatten", "drop6", "fc6", "relu6", "drop7", "fc7", "relu7", "fc8"):
            self.add_module(name, head[name])


def convolutions(network: Network, rows: dict[str, Row], in_chans: int, width: float) -> int:
    """Add the rows' layers to the network; returns the channels of the last."""
    c, most = in_chans, max(row.groups for row in rows.values())
    for number, row in rows.items():
        c_out = scaled(row.channels, width, multiple=most)  # at any width the next layer's groups share them out
        layers = OrderedDict[str, nn.Module](conv=nn.Conv2d(c, c_out, row.kernel, row.stride, row.padding, groups=row.groups))
        layers["relu"] = nn.ReLU(inplace=True)
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
        builds={"paper": partial(AlexNet, PAPER), "torchvision": partial(AlexNetTorchvision, TORCHVISION)},
        paper="ImageNet Classification with Deep Convolutional Neural Networks",
        year=2012,
        source="NIPS 2012, sec. 3.5, Fig. 2",
        input=(3, 227, 227),
        headline="top-5 18.2 %, ILSVRC-2012 validation, 1 network, 10 crops (Table 2)",
    )
]
