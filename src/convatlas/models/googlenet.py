"""GoogLeNet. Szegedy, Liu, Jia, Sermanet, Reed, Anguelov, Erhan, Vanhoucke, Rabinovich 2014, "Going Deeper
with Convolutions", arXiv:1409.4842, Table 1 and Fig. 2, 3. Input 3 x 224 x 224.

All convolutions have biases and end in ReLU; there is no batch norm. Two auxiliary classifiers take the
outputs of inception (4a) and (4d) (sec. 5). `googlenet_naive` has the modules of Fig. 2a: no reductions, and
the pooling branch keeps all its channels.

Slips resolved
- Table 1 prints 2.7K parameters and 34M operations for the first convolution: a 7x7 with 64 filters has 9,408
  and 118M. The printed numbers are those of a separable 7x7 with depth multiplier 8 (3 x 8 x 49 + 24 x 64 =
  2,712), which BN-Inception's appendix names. The text and the table's shape say 7x7, and we follow them.
- Its parameters of 4c, 4d, 4e, 5a and 5b fit other filter counts than those printed beside them, by 1 to 7 %:
  we follow the filter counts.
Unstated: the response normalisation's constants (ours: Krizhevsky's), the poolings' treatment of borders
(ours: they round up, which gives the printed grids), the initialisation (ours: Glorot's, biases zero).

Edition `torchvision`: every convolution without bias and with batch norm (epsilon 0.001); no response
normalisation; the 5x5 branch is 3x3; the fourth max pooling is 2x2; dropout 0.2; auxiliary heads pool
adaptively to 4x4; Gaussian initialisation.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import nn

from convatlas.layers.conv import Concat, Conv, conv_chain, conv_norm_relu, conv_relu
from convatlas.layers.init import glorot_uniform
from convatlas.layers.local_response import LocalResponseNorm
from convatlas.layers.pooling import PoolToGrid
from convatlas.models.network import ImageSize, ModelEntry, Network, scale_channels


@dataclass(frozen=True)
class Row:
    """A row of Table 1: #1x1, #3x3 reduce, #3x3, #5x5 reduce, #5x5, pool proj."""

    c1x1: int
    reduce_3x3: int
    c3x3: int
    reduce_5x5: int
    c5x5: int
    projection: int

    def at_width(self, width: float) -> "Row":
        return Row(*(scale_channels(channels, width) for channels in vars(self).values()))


TABLE_1: dict[str, Row | None] = {
    "inception_3a": Row(64, 96, 128, 16, 32, 32),
    "inception_3b": Row(128, 128, 192, 32, 96, 64),
    "pool3": None,  # max pool 3x3/2
    "inception_4a": Row(192, 96, 208, 16, 48, 64),
    "inception_4b": Row(160, 112, 224, 24, 64, 64),
    "inception_4c": Row(128, 128, 256, 24, 64, 64),
    "inception_4d": Row(112, 144, 288, 32, 64, 64),
    "inception_4e": Row(256, 160, 320, 32, 128, 128),
    "pool4": None,
    "inception_5a": Row(256, 160, 320, 32, 128, 128),
    "inception_5b": Row(384, 192, 384, 48, 128, 128),
}
HEADS = {"aux1": "inception_4a", "aux2": "inception_4d"}

ModuleBuilder = Callable[[Conv, int, Row], tuple[nn.Module, int]]
"""(convolution, channels in, row) -> module, channels out"""


def inception_module(conv: Conv, c: int, row: Row, kernel: int = 5) -> tuple[nn.Module, int]:
    """The module of Fig. 2b, with reductions. `kernel` is that of the branch which the paper calls 5x5."""
    branches = {
        "branch_1x1": conv(c, row.c1x1, 1),
        "branch_3x3": conv_chain(conv, c, (row.reduce_3x3, 1), (row.c3x3, 3)),
        "branch_5x5": conv_chain(conv, c, (row.reduce_5x5, 1), (row.c5x5, kernel)),
        "branch_pool": nn.Sequential(nn.MaxPool2d(3, 1, 1), conv(c, row.projection, 1)),
    }
    return Concat(branches), row.c1x1 + row.c3x3 + row.c5x5 + row.projection


def naive_inception_module(conv: Conv, c: int, row: Row) -> tuple[nn.Module, int]:
    """The module of Fig. 2a, without reductions."""
    branches = {
        "branch_1x1": conv(c, row.c1x1, 1),
        "branch_3x3": conv(c, row.c3x3, 3),
        "branch_5x5": conv(c, row.c5x5, 5),
        "branch_pool": nn.MaxPool2d(3, 1, 1),
    }
    return Concat(branches), row.c1x1 + row.c3x3 + row.c5x5 + c


def pool_to_4x4() -> nn.Module:
    """The auxiliary heads' average pooling, from the paper's 14x14 grid or any other."""
    return PoolToGrid(kernel=5, stride=3, paper_side=14)


@dataclass(frozen=True)
class Parts:
    """The parts in which editions differ."""

    module: ModuleBuilder = inception_module
    conv: Conv = conv_relu
    norm: Callable[[], nn.Module] | None = LocalResponseNorm
    pool4_kernel: int = 3
    head_pool: Callable[[], nn.Module] = pool_to_4x4
    init_weights: Callable[[nn.Module], None] = glorot_uniform


class GoogLeNet(Network):
    """images (n, in_chans, h, w), at least 31x31 -> logits (n, num_classes); `training_outputs` adds aux1 and
    aux2.

    `image_size` changes nothing: the auxiliary heads pool any grid to the paper's 4x4.
    """

    heads = HEADS

    def __init__(
        self,
        parts: Parts,
        num_classes: int = 1000,
        in_chans: int = 3,
        width: float = 1.0,
        image_size: ImageSize = None,
        dropout: float = 0.4,
        aux: bool = True,
    ):
        super().__init__(in_chans, min_size=31, min_size_layer="pool4")
        conv = parts.conv
        c64, c = scale_channels(64, width), scale_channels(192, width)
        self.conv1 = conv(in_chans, c64, 7, 2)
        self.pool1 = nn.MaxPool2d(3, 2, ceil_mode=True)
        if parts.norm:
            self.norm1 = parts.norm()
        self.conv2_reduce = conv(c64, c64, 1)
        self.conv2 = conv(c64, c, 3)
        if parts.norm:
            self.norm2 = parts.norm()
        self.pool2 = nn.MaxPool2d(3, 2, ceil_mode=True)
        for name, row in TABLE_1.items():
            if row is None:
                kernel = parts.pool4_kernel if name == "pool4" else 3
                self.add_module(name, nn.MaxPool2d(kernel, 2, ceil_mode=True))
            else:
                module, c = parts.module(conv, c, row.at_width(width))
                self.add_module(name, module)
            for head, source in HEADS.items():
                if aux and source == name:
                    units = (scale_channels(128, width), scale_channels(1024, width))
                    self.add_module(head, auxiliary_head(parts, c, units, num_classes))
        if not aux:
            self.heads = {}
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(c, num_classes)
        self.initialize(parts.init_weights)


def auxiliary_head(parts: Parts, c: int, units: tuple[int, int], num_classes: int) -> nn.Sequential:
    """Sec. 5: average pooling 5x5/3 to 4x4, 1x1 convolution of 128 filters, fully connected layer of 1024
    units, dropout 70 %, linear layer. `units` are the 128 and the 1024."""
    layers = nn.Sequential()
    layers.add_module("avgpool", parts.head_pool())
    layers.add_module("conv", parts.conv(c, units[0], 1))
    layers.add_module("flatten", nn.Flatten())
    layers.add_module("fc1", nn.Linear(16 * units[0], units[1]))
    layers.add_module("relu", nn.ReLU(inplace=True))
    layers.add_module("dropout", nn.Dropout(0.7))
    layers.add_module("fc2", nn.Linear(units[1], num_classes))
    return layers


def init_torchvision(module: nn.Module) -> None:
    """The initialisation of the edition `torchvision`."""
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.01)


class GoogLeNetTorchvision(GoogLeNet):
    """images (n, in_chans, h, w), at least 15x15 -> logits (n, num_classes); `training_outputs` adds aux1 and
    aux2."""

    def __init__(
        self,
        num_classes: int = 1000,
        in_chans: int = 3,
        width: float = 1.0,
        image_size: ImageSize = None,
        dropout: float = 0.2,
        aux: bool = True,
    ):
        parts = Parts(
            module=partial(inception_module, kernel=3),
            conv=partial(conv_norm_relu, eps=1e-3),
            norm=None,
            pool4_kernel=2,
            head_pool=partial(nn.AdaptiveAvgPool2d, 4),
            init_weights=init_torchvision,
        )
        super().__init__(parts, num_classes, in_chans, width, image_size, dropout, aux)
        self.min_size = 15
        self.min_size_layer = "pool3"


ENTRIES = [
    ModelEntry(
        name="googlenet",
        builders={"paper": partial(GoogLeNet, Parts()), "torchvision": GoogLeNetTorchvision},
        paper="Going Deeper with Convolutions",
        year=2014,
        source="arXiv:1409.4842, Table 1",
        input=(3, 224, 224),
        headline="top-5 10.07 %, ILSVRC-2014 validation, 1 network, 1 crop (Table 3)",
    ),
    ModelEntry(
        name="googlenet_naive",
        builders={"paper": partial(GoogLeNet, Parts(module=naive_inception_module))},
        paper="Going Deeper with Convolutions",
        year=2014,
        source="arXiv:1409.4842, Fig. 2a with Table 1's filters",
        input=(3, 224, 224),
        headline="none printed",
    ),
]
