"""FCN. Long, Shelhamer, Darrell 2015, "Fully Convolutional Networks for Semantic Segmentation", arXiv:1411.4038, Tables 1 and 2, Fig. 3.
Input 3 x 500 x 500; any size is taken, and the logits have the images' grid.

A classifier without its last layer, its fully connected layers turned into convolutions, then a 1x1 convolution that scores the classes
and a transposed convolution back to the pixels. FCN-16s and FCN-8s also score pool4, and pool3, and sum. Dropout stands where the
classifier has it. Modules are named as released.

Initialisation (sec. 4.1 to 4.3): scores 0; upsampling bilinear; the rest is meant to come from a trained classifier, or from the next
coarser net, by `initialise_from` ("training from scratch is not feasible"). Before that it has Glorot's (ours).
Training: everything (sec. 4.3, "we fine-tune all layers") but the last upsampling, which stays bilinear; the 2x ones inside are learned.
Which parameters an optimiser gets is for the recipe to say: here the last is a parameter like the others, and `fixed` names it. The
FCN-32s-fixed of Table 2 trains score_fr alone.

Slips resolved
- Table 1's 57M, 134M and 6M parameters leave out the upsampling's, of full kernels (classes, classes, k, k); ours count them.
- Table 1 prints a receptive field of 907 for GoogLeNet: that is with the final average pooling, which sec. 4.1 discards, and so do we;
  without it, it is 715.
- Sec. 4.3 fixes the last upsampling; the authors' released notes say that their first experiments learned it, with no difference.
Unstated: padding, cropping and grids (ours as released: the first convolution padded by 100, poolings round up, crops as in Table 2's
rows below; GoogLeNet was never released, and has the same), AlexNet's details (ours: Krizhevsky's normalisation before pooling, where the
CaffeNet that they began from pools first), GoogLeNet's dropout (ours: `dropout` before the scores; GoogLeNet's own rate was 0.4).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from convatlas.errors import UsageError, unknown_name
from convatlas.layers.conv import conv_relu
from convatlas.layers.init import glorot
from convatlas.layers.upsampling import BilinearUpsampling, crop
from convatlas.models import alexnet, googlenet, vgg
from convatlas.models.network import ModelEntry, Network, Size, scaled

PADDING = 100  # of the first convolution, so that the smallest image leaves fc6 a grid


@dataclass(frozen=True)
class Upsampling:
    """Back to the pixels: the transposed convolution, and where the images' first pixel then lies."""

    name: str
    kernel: int
    stride: int
    crop: int


@dataclass(frozen=True)
class Skip:
    """A 2x upsampling of the scores so far, and a finer pooling whose own scores, from `crop` on, are added to them."""

    name: str
    pool: str
    channels: int
    crop: int


@dataclass(frozen=True)
class Backbone:
    """A classifier up to its last layer: (network, channels in, width, dropout) adds the layers and returns the last one's channels."""

    add: Callable[[Network, int, float, float], int]
    last: Upsampling


@dataclass(frozen=True)
class Row:
    skips: tuple[Skip, ...] = ()
    last: Upsampling | None = None  # None: the backbone's


def add_vgg16(network: Network, in_chans: int, width: float, dropout: float) -> int:
    c = in_chans
    for block, cells in enumerate(vgg.TABLE_1["D"], start=1):
        for place, (kernel, channels) in enumerate(cells, start=1):
            c_out = scaled(channels, width)
            padding = PADDING if (block, place) == (1, 1) else kernel // 2
            network.add_module(f"conv{block}_{place}", nn.Conv2d(c, c_out, kernel, padding=padding))
            network.add_module(f"relu{block}_{place}", nn.ReLU(inplace=True))
            c = c_out
        network.add_module(f"pool{block}", nn.MaxPool2d(2, ceil_mode=True))
    return convolutionalised(network, c, 7, scaled(4096, width), dropout)


def add_alexnet(network: Network, in_chans: int, width: float, dropout: float) -> int:
    rows = alexnet.PAPER | {"1": replace(alexnet.PAPER["1"], padding=PADDING)}
    c = alexnet.convolutions(network, rows, in_chans, width)
    for layer in network.children():
        if isinstance(layer, nn.MaxPool2d):
            layer.ceil_mode = True
    return convolutionalised(network, c, 6, scaled(4096, width), dropout)


def add_googlenet(network: Network, in_chans: int, width: float, dropout: float) -> int:
    whole = googlenet.GoogLeNet(googlenet.Parts(), in_chans=in_chans, width=width, aux=False)
    for name, layer in whole.named_children():
        if name == "avgpool":
            break
        network.add_module(name, conv_relu(in_chans, scaled(64, width), 7, 2, PADDING) if name == "conv1" else layer)
    network.add_module("dropout", nn.Dropout(dropout))
    return whole.linear.in_features


def convolutionalised(network: Network, c: int, kernel: int, units: int, dropout: float) -> int:
    """Sec. 3.1: fc6 sees its classifier's whole grid, a window of `kernel`; fc7 one place."""
    network.add_module("fc6", nn.Conv2d(c, units, kernel))
    network.add_module("relu6", nn.ReLU(inplace=True))
    network.add_module("drop6", nn.Dropout(dropout))
    network.add_module("fc7", nn.Conv2d(units, units, 1))
    network.add_module("relu7", nn.ReLU(inplace=True))
    network.add_module("drop7", nn.Dropout(dropout))
    return units


TABLE_1 = {
    "alexnet": Backbone(add_alexnet, Upsampling("upscore", kernel=63, stride=32, crop=18)),
    "vgg16": Backbone(add_vgg16, Upsampling("upscore", kernel=64, stride=32, crop=19)),
    "googlenet": Backbone(add_googlenet, Upsampling("upscore", kernel=63, stride=32, crop=98)),
}
_POOL4, _POOL3 = Skip("upscore2", "pool4", 512, crop=5), Skip("upscore_pool4", "pool3", 256, crop=9)
TABLE_2 = {
    "FCN-32s": Row(),
    "FCN-16s": Row((_POOL4,), Upsampling("upscore16", kernel=32, stride=16, crop=27)),
    "FCN-8s": Row((_POOL4, _POOL3), Upsampling("upscore8", kernel=16, stride=8, crop=31)),
}


class FCN(Network):
    """images (n, in_chans, h, w) of any size -> logits (n, num_classes, h, w).

    `backbone` is "vgg16", and for FCN-32s also "alexnet" or "googlenet".
    """

    def __init__(
        self,
        row: Row,
        num_classes: int = 21,
        in_chans: int = 3,
        width: float = 1.0,
        image_size: Size = None,  # nothing here depends on it: all layers are convolutions
        dropout: float = 0.5,
        backbone: str = "vgg16",
    ):
        if backbone not in TABLE_1:
            raise unknown_name("backbone", backbone, TABLE_1)
        if row.skips and backbone != "vgg16":
            raise UsageError(f"FCN-16s and FCN-8s are built on vgg16 alone, not on {backbone}: take fcn32s, or backbone='vgg16'")
        super().__init__(in_chans, smallest=1, layer="the first convolution")
        c = TABLE_1[backbone].add(self, in_chans, width, dropout)
        self.trunk = tuple(self._modules)
        self.skips, self.last = row.skips, row.last or TABLE_1[backbone].last
        self.score_fr = nn.Conv2d(c, num_classes, 1)
        for skip in self.skips:
            self.add_module(skip.name, BilinearUpsampling(num_classes, kernel=4, stride=2))
            self.add_module(f"score_{skip.pool}", nn.Conv2d(scaled(skip.channels, width), num_classes, 1))
        self.add_module(self.last.name, BilinearUpsampling(num_classes, self.last.kernel, self.last.stride))
        self.apply(glorot)
        for name, layer in self.named_children():
            if name.startswith("score_"):
                layer.apply(zero)

    @property
    def classifier(self) -> str:
        return "score_fr"

    @property
    def fixed(self) -> str:
        """The path of the layer that the paper does not train (sec. 4.3)."""
        return self.last.name

    def forward(self, images: Tensor) -> Tensor:
        self.check(images)
        x, finer = images, {skip.pool: images for skip in self.skips}
        for name in self.trunk:
            x = self.get_submodule(name)(x)
            if name in finer:
                finer[name] = x
        scores = self.score_fr(x)
        for skip in self.skips:
            scores = self.get_submodule(skip.name)(scores)
            scores = scores + crop(self.get_submodule(f"score_{skip.pool}")(finer[skip.pool]), scores, skip.crop)
        return crop(self.get_submodule(self.last.name)(scores), images, self.last.crop)


def zero(module: nn.Module) -> None:
    """Sec. 4.3: "we zero-initialize the class scoring layer"; sec. 4.2: so that a finer net starts with unmodified predictions."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)


def initialise_from(fcn: FCN, source: Network) -> None:
    """Copy what a trained network knows: a classifier's layers except its last, the fully connected ones as convolutions (sec. 3.1 and
    4.1); or all layers of a coarser FCN except its last upsampling (sec. 4.2).

    Raises ValueError when a layer has no counterpart, or one of another shape (another backbone, edition, width, image size or number
    of classes); then nothing is copied.
    """
    name = type(source).__name__
    left = (source.fixed,) if isinstance(source, FCN) else (source.classifier, *source.heads)
    theirs = {path: p for path, p in source.named_parameters() if path.split(".")[0] not in left}
    mine = dict(fcn.named_parameters())
    for path in mine:
        if path.split(".")[0] in fcn.trunk and path not in theirs:
            raise ValueError(f"{path} of the FCN has no counterpart in {name}")
    for path, parameter in theirs.items():
        if path not in mine:
            raise ValueError(f"{path} of {name} has no counterpart in the FCN")
        shape, found = tuple(mine[path].shape), tuple(parameter.shape)
        unrolled = (shape[0], mine[path][0].numel())
        if found != shape and not (len(found) == 2 and found == unrolled):
            raise ValueError(f"{path} has shape {found} in {name} but {shape} in the FCN")
    with torch.no_grad():
        for path, parameter in theirs.items():
            mine[path].copy_(parameter.reshape(mine[path].shape))


def _entry(name: str, row: str, mean_iu: str) -> ModelEntry:
    return ModelEntry(
        name=name,
        builds={"paper": partial(FCN, TABLE_2[row])},
        paper="Fully Convolutional Networks for Semantic Segmentation",
        year=2015,
        source=f"arXiv:1411.4038, Table 2, {row}",
        input=(3, 500, 500),
        headline=f"mean IU {mean_iu} %, PASCAL VOC 2011 validation subset (Table 2)",
        task="segmentation",
    )


ENTRIES = [_entry("fcn32s", "FCN-32s", "59.4"), _entry("fcn16s", "FCN-16s", "62.4"), _entry("fcn8s", "FCN-8s", "62.7")]
