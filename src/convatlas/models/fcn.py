"""FCN. Long, Shelhamer, Darrell 2015, "Fully Convolutional Networks for Semantic Segmentation",
arXiv:1411.4038, Tables 1 and 2, Fig. 3. Input 3 x 500 x 500; the network takes images of any size, and the
logits have their grid.

A classifier without its last layer, with its fully connected layers turned into convolutions; then a 1x1
convolution that scores the classes, and a transposed convolution back to the pixels. FCN-16s adds scores of
pool4, FCN-8s scores of pool4 and pool3. Dropout is where the classifier has it. Modules have the names of the
release.

Initialisation (sec. 4.1 to 4.3): scores 0; upsampling bilinear; the other layers should come from a trained
classifier, or from the next coarser net, by `init_from` ("training from scratch is not feasible"). Before
that they have Glorot's (ours).
Training: all layers (sec. 4.3, "we fine-tune all layers") except the last upsampling, which stays bilinear;
the 2x upsampling layers before it are learned. The recipe decides which parameters an optimiser gets: in this
file the last upsampling is a parameter like the others, and `frozen_layer` names it. The FCN-32s-fixed of
Table 2 trains score_fr alone.

Slips resolved
- Table 1's 57M, 134M and 6M parameters leave out the upsampling's full kernels (classes, classes, k, k); ours
  count them.
- Table 1 prints a receptive field of 907 for GoogLeNet: that includes the final average pooling, which
  sec. 4.1 discards, as we do; without it the receptive field is 715.
- Sec. 4.3 fixes the last upsampling; the authors' released notes say that their first experiments learned it,
  with no difference.
Unstated: padding, cropping and grids (ours as released: the first convolution padded by 100, poolings round
up, crops as in Table 2's rows below; GoogLeNet was never released, and has the same), AlexNet's details
(ours: Krizhevsky's normalisation before pooling; the CaffeNet that the authors started from pools first),
GoogLeNet's dropout (ours: `dropout` before the scores; GoogLeNet's own rate was 0.4).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from convatlas.errors import UsageError, unknown_name
from convatlas.layers.conv import conv_relu
from convatlas.layers.init import glorot_uniform
from convatlas.layers.upsampling import BilinearUpsampling, crop
from convatlas.models import alexnet, googlenet, vgg
from convatlas.models.network import ImageSize, ModelEntry, Network, scale_channels

PADDING = 100  # of the first convolution, so that fc6 has a grid even for the smallest image


@dataclass(frozen=True)
class Upsampling:
    """The transposed convolution back to the pixels; the image's first pixel is at `crop` in its output."""

    name: str
    kernel: int
    stride: int
    crop: int


@dataclass(frozen=True)
class Skip:
    """A 2x upsampling of the scores; the scores of a finer pooling, cropped from `crop` on, are added."""

    name: str
    pool: str
    channels: int
    crop: int


@dataclass(frozen=True)
class Backbone:
    """A classifier up to its last layer, and the upsampling of FCN-32s.

    `add_layers` (network, channels in, width, dropout) adds the layers and returns the channels of the last.
    """

    add_layers: Callable[[Network, int, float, float], int]
    upsampling: Upsampling


@dataclass(frozen=True)
class Row:
    skips: tuple[Skip, ...] = ()
    upsampling: Upsampling | None = None  # None: the backbone's


def add_vgg16(network: Network, in_chans: int, width: float, dropout: float) -> int:
    c = in_chans
    for block, cells in enumerate(vgg.TABLE_1["D"], start=1):
        for number, (kernel, channels) in enumerate(cells, start=1):
            c_out = scale_channels(channels, width)
            padding = PADDING if (block, number) == (1, 1) else kernel // 2
            network.add_module(f"conv{block}_{number}", nn.Conv2d(c, c_out, kernel, padding=padding))
            network.add_module(f"relu{block}_{number}", nn.ReLU(inplace=True))
            c = c_out
        network.add_module(f"pool{block}", nn.MaxPool2d(2, ceil_mode=True))
    return add_convolutional_head(network, c, 7, scale_channels(4096, width), dropout)


def add_alexnet(network: Network, in_chans: int, width: float, dropout: float) -> int:
    rows = alexnet.PAPER | {"1": replace(alexnet.PAPER["1"], padding=PADDING)}
    c = alexnet.add_convolutions(network, rows, in_chans, width)
    for layer in network.children():
        if isinstance(layer, nn.MaxPool2d):
            layer.ceil_mode = True
    return add_convolutional_head(network, c, 6, scale_channels(4096, width), dropout)


def add_googlenet(network: Network, in_chans: int, width: float, dropout: float) -> int:
    classifier = googlenet.GoogLeNet(googlenet.Parts(), in_chans=in_chans, width=width, aux=False)
    for name, layer in classifier.named_children():
        if name == "avgpool":
            break
        if name == "conv1":
            layer = conv_relu(in_chans, scale_channels(64, width), 7, 2, PADDING)
        network.add_module(name, layer)
    network.add_module("dropout", nn.Dropout(dropout))
    return classifier.linear.in_features


def add_convolutional_head(network: Network, c: int, kernel: int, units: int, dropout: float) -> int:
    """Sec. 3.1: fc6 as a convolution over the classifier's grid, of side `kernel`; fc7 as 1x1 convolution."""
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
_POOL4 = Skip("upscore2", "pool4", 512, crop=5)
_POOL3 = Skip("upscore_pool4", "pool3", 256, crop=9)
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
        image_size: ImageSize = None,  # no layer depends on it: all are convolutions
        dropout: float = 0.5,
        backbone: str = "vgg16",
    ):
        if backbone not in TABLE_1:
            raise unknown_name("backbone", backbone, TABLE_1)
        if row.skips and backbone != "vgg16":
            raise UsageError(
                f"FCN-16s and FCN-8s are built on vgg16 alone, not on {backbone}: take fcn32s, or "
                "backbone='vgg16'"
            )
        super().__init__(in_chans, min_size=1, min_size_layer="the first convolution")
        c = TABLE_1[backbone].add_layers(self, in_chans, width, dropout)
        self.trunk = tuple(self._modules)
        self.skips = row.skips
        self.upsampling = row.upsampling or TABLE_1[backbone].upsampling
        self.score_fr = nn.Conv2d(c, num_classes, 1)
        for skip in self.skips:
            self.add_module(skip.name, BilinearUpsampling(num_classes, kernel=4, stride=2))
            score = nn.Conv2d(scale_channels(skip.channels, width), num_classes, 1)
            self.add_module(f"score_{skip.pool}", score)
        upsampling = BilinearUpsampling(num_classes, self.upsampling.kernel, self.upsampling.stride)
        self.add_module(self.upsampling.name, upsampling)
        self.initialize(glorot_uniform)
        for name, layer in self.named_children():
            if name.startswith("score_"):
                layer.apply(init_zero)

    @property
    def classifier(self) -> str:
        return "score_fr"

    @property
    def frozen_layer(self) -> str:
        """The path of the layer that the paper does not train (sec. 4.3)."""
        return self.upsampling.name

    def forward(self, images: Tensor) -> Tensor:
        images = self.check_images(images)
        x = images
        pools = {skip.pool: images for skip in self.skips}
        for name in self.trunk:
            x = self.get_submodule(name)(x)
            if name in pools:
                pools[name] = x
        scores = self.score_fr(x)
        for skip in self.skips:
            scores = self.get_submodule(skip.name)(scores)
            finer_scores = self.get_submodule(f"score_{skip.pool}")(pools[skip.pool])
            scores = scores + crop(finer_scores, scores, skip.crop)
        return crop(self.get_submodule(self.upsampling.name)(scores), images, self.upsampling.crop)


def init_zero(module: nn.Module) -> None:
    """Zero a class scoring layer: sec. 4.3, "we zero-initialize the class scoring layer"; sec. 4.2, so that a
    finer net starts with unmodified predictions."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)


def init_from(fcn: FCN, source: Network) -> tuple[str, ...]:
    """Copy the weights of a trained network; returns the paths of the parameters that were copied.

    From a classifier: all layers except its last, the fully connected ones as convolutions (sec. 3.1 and
    4.1). From a coarser FCN: all layers except its last upsampling (sec. 4.2). Raises ValueError when a layer
    has no counterpart, or one of another shape (another backbone, edition, width, image size or number of
    classes); then nothing is copied.
    """
    name = type(source).__name__
    excluded = (source.frozen_layer,) if isinstance(source, FCN) else (source.classifier, *source.heads)
    source_parameters = {
        path: parameter for path, parameter in source.named_parameters() if path.split(".")[0] not in excluded
    }
    parameters = dict(fcn.named_parameters())
    for path in parameters:
        if path.split(".")[0] in fcn.trunk and path not in source_parameters:
            raise ValueError(f"{path} of the FCN has no counterpart in {name}")
    for path, parameter in source_parameters.items():
        if path not in parameters:
            raise ValueError(f"{path} of {name} has no counterpart in the FCN")
        shape = tuple(parameters[path].shape)
        source_shape = tuple(parameter.shape)
        linear_shape = (shape[0], parameters[path][0].numel())  # of the same weights as a linear layer
        if source_shape != shape and not (len(source_shape) == 2 and source_shape == linear_shape):
            raise ValueError(f"{path} has shape {source_shape} in {name} but {shape} in the FCN")
    with torch.no_grad():
        for path, parameter in source_parameters.items():
            parameters[path].copy_(parameter.reshape(parameters[path].shape))
    return tuple(source_parameters)


def _entry(name: str, row: str, mean_iu: str) -> ModelEntry:
    return ModelEntry(
        name=name,
        builders={"paper": partial(FCN, TABLE_2[row])},
        paper="Fully Convolutional Networks for Semantic Segmentation",
        year=2015,
        source=f"arXiv:1411.4038, Table 2, {row}",
        input=(3, 500, 500),
        headline=f"mean IU {mean_iu} %, PASCAL VOC 2011 validation subset (Table 2)",
        task="segmentation",
    )


ENTRIES = [
    _entry("fcn32s", "FCN-32s", "59.4"),
    _entry("fcn16s", "FCN-16s", "62.4"),
    _entry("fcn8s", "FCN-8s", "62.7"),
]
