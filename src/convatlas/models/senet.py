"""SENet. Hu, Shen, Albanie, Sun, Wu 2017, "Squeeze-and-Excitation Networks", arXiv:1709.01507v4.

A squeeze-and-excitation block (layers/squeeze_excite.py) acts on the residual branch before the addition, or
on a complete inception module (sec. 3.3). SE-ResNets: Table 1 on the rows of models/resnet.py. SENet-154
(appendix): 64 groups, three 3x3 in the stem, the first 1x1 of a bottleneck halved, 3x3 projections where the
stride is 2, dropout 0.2.

Slips resolved
- Eq. 3 has no biases; the released networks, and so those of Table 2, have them; the ablations (sec. 6,
  Table 10) leave them out: `excitation_bias=False` gives 45,676,584 parameters at reduction 2 (printed:
  45.7M) and 28,071,976 at 16 (28.1M).
- Table 3's parameters are truncated, not rounded, after one digit: SE-ShuffleNet has 2,484,533 (printed:
  2.4M), SE-MobileNet 4,718,044 (4.7M).

Edition `timm` (its `legacy_` networks): the stem's max pooling has no padding but rounds up.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from torch import nn

from convatlas.errors import UsageError
from convatlas.layers.conv import conv_norm, conv_norm_relu
from convatlas.layers.init import he_normal
from convatlas.layers.residual import identity_or, projection
from convatlas.layers.squeeze_excite import SqueezeExcite
from convatlas.models import bn_inception, mobilenet, resnet, shufflenet
from convatlas.models.network import ImageSize, ModelEntry, Network, scale_channels
from convatlas.models.resnet import TABLE_1, Block, Row


def with_excitation(
    block: Block, expansion: int, reduction: int, bias: bool, c_in: int, width: int, stride: int
) -> nn.Sequential:
    """A residual function followed by squeeze and excitation."""
    function = block(c_in, width, stride)
    function.add_module("se", SqueezeExcite(expansion * width, reduction, bias))
    return function


def senet154_bottleneck(c_in: int, width: int, stride: int) -> nn.Sequential:
    """SENet-154's bottleneck: 1x1 to 2, 3x3 in 64 groups to 4 and 1x1 to 4 times the width."""
    return nn.Sequential(
        OrderedDict(
            conv1=conv_norm(c_in, 2 * width, 1),
            relu1=nn.ReLU(inplace=True),
            conv2=conv_norm(2 * width, 4 * width, 3, stride, groups=min(64, 2 * width)),
            relu2=nn.ReLU(inplace=True),
            conv3=conv_norm(4 * width, 4 * width, 1),
        )
    )


def senet154_stem(in_chans: int, width: float) -> tuple[OrderedDict[str, nn.Module], int]:
    c64, c128 = scale_channels(64, width), scale_channels(128, width)
    layers = OrderedDict[str, nn.Module](
        conv1_1=conv_norm_relu(in_chans, c64, 3, 2),
        conv1_2=conv_norm_relu(c64, c64, 3),
        conv1_3=conv_norm_relu(c64, c128, 3),
        maxpool=nn.MaxPool2d(3, 2, 1),
    )
    return layers, c128


def projection_3x3(c_in: int, c_out: int, stride: int) -> nn.Module:
    return projection(c_in, c_out, stride) if stride == 1 else conv_norm(c_in, c_out, 3, stride)


SENET_154 = Row(
    (3, 8, 36, 3),
    senet154_bottleneck,
    expansion=4,
    stem=senet154_stem,
    shortcuts={"B": identity_or(projection_3x3)},
)


def with_ceil_pooling(row: Row) -> Row:
    """The row with the max pooling of the edition `timm`, which rounds up."""

    def stem(in_chans: int, width: float) -> tuple[OrderedDict[str, nn.Module], int]:
        layers, c = row.stem(in_chans, width)
        layers["maxpool"] = nn.MaxPool2d(3, 2, ceil_mode=True)
        return layers, c

    return replace(row, stem=stem)


class SEResNet(resnet.ResNet):
    """images (n, in_chans, h, w) of any size (the paper: 224x224) -> logits (n, num_classes).

    `reduction` is r of eq. 3, `excitation_bias` whether its two layers have biases, `shortcut` as in ResNet,
    `stride_in` the convolution of a ResNet's bottleneck that has the stride, "1x1" (Table 1) or "3x3". With
    pooling that rounds up, images are at least 3x3.
    """

    def __init__(
        self,
        row: Row,
        num_classes: int = 1000,
        in_chans: int = 3,
        width: float = 1.0,
        image_size: ImageSize = None,  # no layer depends on it: the features are averaged over the grid
        dropout: float = 0.0,
        shortcut: str = "B",
        reduction: int = 16,
        excitation_bias: bool = True,
        stride_in: str = "1x1",
    ):
        if stride_in not in ("1x1", "3x3"):
            raise UsageError(f"stride_in {stride_in!r} does not exist: expected 1x1 or 3x3")
        inner: Block = partial(resnet.bottleneck, stride_in_3x3=True) if stride_in == "3x3" else row.block
        block = partial(with_excitation, inner, row.expansion, reduction, excitation_bias)
        row = replace(row, block=block)
        super().__init__(row, he_normal, num_classes, in_chans, width, image_size, dropout, shortcut)
        if isinstance(self.maxpool, nn.MaxPool2d) and self.maxpool.ceil_mode:
            self.min_size = 3
            self.min_size_layer = "maxpool"


class SEBNInception(bn_inception.BNInception):
    """images (n, in_chans, h, w) of any size (the paper: 224x224) -> logits (n, num_classes); `reduction` is
    r of eq. 3."""

    def __init__(
        self,
        num_classes: int = 1000,
        in_chans: int = 3,
        width: float = 1.0,
        image_size: ImageSize = None,
        dropout: float = 0.0,
        reduction: int = 16,
        excitation_bias: bool = True,
    ):
        se_layer = partial(SqueezeExcite, reduction=reduction, bias=excitation_bias)
        parts = bn_inception.Parts(se_layer=se_layer)
        super().__init__(parts, num_classes, in_chans, width, image_size, dropout)


class SEMobileNet(mobilenet.MobileNet):
    """images (n, in_chans, h, w) of any size (the paper: 224x224) -> logits (n, num_classes); `reduction` is
    r of eq. 3."""

    def __init__(
        self,
        num_classes: int = 1000,
        in_chans: int = 3,
        width: float = 1.0,
        image_size: ImageSize = None,
        dropout: float = 0.0,
        reduction: int = 16,
        excitation_bias: bool = True,
    ):
        se_layer = partial(SqueezeExcite, reduction=reduction, bias=excitation_bias)
        parts = mobilenet.Parts(se_layer=se_layer)
        super().__init__(parts, num_classes, in_chans, width, image_size, dropout)


class SEShuffleNet(shufflenet.ShuffleNet):
    """images (n, in_chans, h, w) of any size (the paper: 224x224) -> logits (n, num_classes); `reduction` is
    r of eq. 3."""

    def __init__(
        self,
        num_classes: int = 1000,
        in_chans: int = 3,
        width: float = 1.0,
        image_size: ImageSize = None,
        dropout: float = 0.0,
        groups: int = 3,
        reduction: int = 16,
        excitation_bias: bool = True,
    ):
        se_layer = partial(SqueezeExcite, reduction=reduction, bias=excitation_bias)
        parts = shufflenet.Parts(se_layer=se_layer)
        super().__init__(parts, num_classes, in_chans, width, image_size, dropout, groups)


Builders = dict[str, Callable[..., Network]]


def _entry(name: str, builders: Builders, source: str, headline: str, **defaults: float) -> ModelEntry:
    return ModelEntry(
        name=name,
        builders=builders,
        paper="Squeeze-and-Excitation Networks",
        year=2017,
        source=f"arXiv:1709.01507, {source}",
        input=(3, 224, 224),
        headline=headline,
        defaults=defaults,
    )


def _paper_and_timm(row: Row, **bound: str) -> Builders:
    return {
        "paper": partial(SEResNet, row, **bound),  # type: ignore[arg-type]
        "timm": partial(SEResNet, with_ceil_pooling(row), **bound),  # type: ignore[arg-type]
    }


_TABLE_2 = "top-5 {} %, ILSVRC-2012 validation, 1 crop (Table 2)"
_TABLE_3 = "top-5 {} %, ILSVRC-2012 validation, 1 crop (Table 3)"
_TABLE_8 = "top-5 {} %, ILSVRC-2012 validation, 1 crop (Table 8)"
ENTRIES = [
    _entry("se_resnet50", _paper_and_timm(TABLE_1[50]), "Table 1", _TABLE_2.format("6.62")),
    _entry("se_resnet101", _paper_and_timm(TABLE_1[101]), "Table 2", _TABLE_2.format("6.07")),
    _entry("se_resnet152", _paper_and_timm(TABLE_1[152]), "Table 2", _TABLE_2.format("5.73")),
    # its bottleneck has the stride in the 3x3 always
    _entry(
        "senet154",
        _paper_and_timm(SENET_154, stride_in="1x1"),
        "appendix",
        _TABLE_8.format("4.47"),
        dropout=0.2,
    ),
    _entry("se_bn_inception", {"paper": SEBNInception}, "Table 2", _TABLE_2.format("7.14")),
    _entry("se_mobilenet_v1", {"paper": SEMobileNet}, "Table 3", _TABLE_3.format("7.7")),
    _entry("se_shufflenet_v1", {"paper": SEShuffleNet}, "Table 3", _TABLE_3.format("11.1")),
]
