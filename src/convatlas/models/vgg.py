"""VGG. Simonyan, Zisserman 2014, "Very Deep Convolutional Networks for Large-Scale Image Recognition",
arXiv:1409.1556, Table 1. Input 3 x 224 x 224.

Every convolution keeps the grid and ends in ReLU; 2x2 max pooling at stride 2 follows each block. A-LRN has
the response normalisation of Krizhevsky 2012. The `_bn` networks are later practice: batch norm between each
convolution, which keeps its bias, and its ReLU.

Initialisation (sec. 3.1): net A from Gaussians of variance 0.01, as printed; the deeper nets by Glorot and
Bengio's procedure, the paper's own alternative, or from a trained net A by `init_from`.
Slips resolved
- The "first four convolutional layers" that deeper nets take from A are its conv1_1, conv2_1, conv3_1 and
  conv3_2: their shapes agree only with the layers of the same names.
Note: with variance 0.01 the logits of net A have a standard deviation near 10^5 on normalised images. Many
read the printed value as a standard deviation of 0.01; that is AlexNet's.

Edition `torchvision`: adaptive average pooling to 7x7 before fc6, so the network takes images of any size;
convolutions initialised by He's procedure over the fan-out, linear layers from Gaussians of standard
deviation 0.01.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from convatlas.layers.conv import same_padding
from convatlas.layers.head import fully_connected_head
from convatlas.layers.init import glorot_uniform, normal
from convatlas.layers.local_response import LocalResponseNorm
from convatlas.models.network import (
    ImageSize,
    ModelEntry,
    Network,
    height_and_width,
    image_too_small,
    scale_channels,
)

# Table 1: blocks of convolutions "conv<kernel>-<channels>", each block followed by max pooling
c3_64, c3_128, c3_256, c3_512 = (3, 64), (3, 128), (3, 256), (3, 512)
c1_256, c1_512, lrn = (1, 256), (1, 512), "LRN"
TABLE_1: dict[str, list[list[Any]]] = {
    "A": [[c3_64], [c3_128], [c3_256] * 2, [c3_512] * 2, [c3_512] * 2],
    "A-LRN": [[c3_64, lrn], [c3_128], [c3_256] * 2, [c3_512] * 2, [c3_512] * 2],
    "B": [[c3_64] * 2, [c3_128] * 2, [c3_256] * 2, [c3_512] * 2, [c3_512] * 2],
    "C": [[c3_64] * 2, [c3_128] * 2, [c3_256, c3_256, c1_256], *[[c3_512, c3_512, c1_512]] * 2],
    "D": [[c3_64] * 2, [c3_128] * 2, [c3_256] * 3, [c3_512] * 3, [c3_512] * 3],
    "E": [[c3_64] * 2, [c3_128] * 2, [c3_256] * 4, [c3_512] * 4, [c3_512] * 4],
}

VARIANCE = 0.01  # sec. 3.1


class VGG(Network):
    """images (n, in_chans, *image_size), image_size at least 32 a side -> logits (n, num_classes).

    With `adaptive` it takes images of any size of at least 32x32, and `image_size` changes nothing.
    """

    def __init__(
        self,
        column: str,
        init_weights: Callable[[nn.Module], None],
        batch_norm: bool,
        adaptive: bool,
        num_classes: int = 1000,
        in_chans: int = 3,
        width: float = 1.0,
        image_size: ImageSize = None,
        dropout: float = 0.5,
    ):
        size = height_and_width(image_size, (224, 224))
        if min(size) < 32:
            raise image_too_small("vgg", size, 32, "pool5")
        super().__init__(in_chans, min_size=32, min_size_layer="pool5", fixed_size=None if adaptive else size)
        c = in_chans
        for block, row in enumerate(TABLE_1[column], start=1):
            for number, cell in enumerate(row, start=1):
                if cell == lrn:
                    self.add_module(f"norm{block}_{number}", LocalResponseNorm())
                    continue
                kernel, channels = cell
                c_out = scale_channels(channels, width)
                conv = nn.Conv2d(c, c_out, kernel, padding=same_padding(kernel))
                self.add_module(f"conv{block}_{number}", conv)
                if batch_norm:
                    self.add_module(f"norm{block}_{number}", nn.BatchNorm2d(c_out))
                self.add_module(f"relu{block}_{number}", nn.ReLU(inplace=True))
                c = c_out
            self.add_module(f"pool{block}", nn.MaxPool2d(2))
        if adaptive:
            self.avgpool = nn.AdaptiveAvgPool2d(7)
        grid_height, grid_width = (7, 7) if adaptive else (size[0] // 32, size[1] // 32)
        units = scale_channels(4096, width)
        head = fully_connected_head(c * grid_height * grid_width, units, num_classes, dropout)
        for name, layer in head.items():
            self.add_module(name, layer)
        self.initialize(init_weights)


def init_torchvision(module: nn.Module) -> None:
    """The initialisation of the edition `torchvision`."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(module.bias)  # type: ignore[arg-type]
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.01)
        nn.init.zeros_(module.bias)


def init_from(deeper: VGG, net_a: VGG) -> None:
    """Initialise a deeper net from a trained net A (sec. 3.1).

    Copies A's first four convolutions and its three fully connected layers, and draws the other weights from
    Gaussians of variance 0.01. Raises ValueError when a layer's shape differs (another width, image size or
    number of classes); then nothing is copied.
    """
    pairs = []
    for layer in ("conv1_1", "conv2_1", "conv3_1", "conv3_2", "fc6", "fc7", "fc8"):
        for name in (f"{layer}.weight", f"{layer}.bias"):
            target = deeper.get_parameter(name)
            source = net_a.get_parameter(name)
            if target.shape != source.shape:
                raise ValueError(
                    f"{name} has shape {tuple(source.shape)} in net A but {tuple(target.shape)} in the "
                    "deeper net"
                )
            pairs.append((target, source))
    deeper.apply(normal(VARIANCE**0.5))
    with torch.no_grad():
        for target, source in pairs:
            target.copy_(source)


def _entry(
    name: str, column: str, headline: str, batch_norm: bool = False, torchvision: bool = True
) -> ModelEntry:
    init_weights = normal(VARIANCE**0.5) if column.startswith("A") and not batch_norm else glorot_uniform
    builders = {"paper": partial(VGG, column, init_weights, batch_norm, False)}
    if torchvision:
        builders["torchvision"] = partial(VGG, column, init_torchvision, batch_norm, True)
    return ModelEntry(
        name=name,
        builders=builders,
        paper="Very Deep Convolutional Networks for Large-Scale Image Recognition",
        year=2014,
        source=f"arXiv:1409.1556, Table 1, {column}"
        + (" with batch norm (later practice)" if batch_norm else ""),
        input=(3, 224, 224),
        headline=headline,
    )


_TABLE_3 = "top-5 {} %, ILSVRC-2012 validation, single scale, dense (Table 3)"
ENTRIES = [
    _entry("vgg11", "A", _TABLE_3.format("10.4")),
    _entry("vgg11_lrn", "A-LRN", _TABLE_3.format("10.5"), torchvision=False),
    _entry("vgg13", "B", _TABLE_3.format("9.9")),
    _entry("vgg16_1x1", "C", _TABLE_3.format("8.8"), torchvision=False),
    _entry("vgg16", "D", _TABLE_3.format("8.1")),
    _entry("vgg19", "E", _TABLE_3.format("8.0")),
    *(
        _entry(f"{name}_bn", column, "none printed", batch_norm=True)
        for name, column in zip(("vgg11", "vgg13", "vgg16", "vgg19"), "ABDE", strict=True)
    ),
]
