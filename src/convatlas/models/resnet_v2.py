"""Pre-activation ResNet. He, Zhang, Ren, Sun 2016, "Identity Mappings in Deep Residual Networks",
arXiv:1603.05027.

A unit is y = after(combine(h(x), F(before(x)))). `unit` chooses among all the units of the paper: the
shortcuts of Table 1 and Fig. 2, on units of the original form, and the activation placements of Table 2 and
Fig. 4. The default is full pre-activation.

With pre-activation the first unit, and every unit that changes the shape, applies the activation before the
two paths separate (appendix); one more activation follows the last addition; projections have no batch norm.

Slips resolved
- The paper prints 10.2M parameters for ResNet-1001: its convolutions alone have 10,175,920.
Unstated: gates, scaling and dropout on a shortcut that changes the shape (ours: they act on its output); the
layers after the stem's convolution (ours: for ImageNet batch norm, ReLU and pooling; for CIFAR those that
keep the order of the units); the position of a bottleneck's stride (ours: `stride_in="3x3"` for ImageNet, as
in the released ResNet-200, otherwise "1x1", as in ResNet).
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import nn

from convatlas.errors import UsageError, unknown_name
from convatlas.layers.conv import conv_norm
from convatlas.layers.init import he_normal
from convatlas.layers.pre_activation import Gated, Sum, Unit
from convatlas.layers.residual import PaddedIdentity
from convatlas.models.network import ImageSize, ModelEntry, Network, scale_channels


def identity(c: int) -> nn.Module:
    return nn.Identity()


def relu(c: int) -> nn.Module:
    return nn.ReLU()  # not in place: the shortcut has the same input


def norm_relu(c: int) -> nn.Module:
    return nn.Sequential(OrderedDict(norm=nn.BatchNorm2d(c), relu=nn.ReLU(inplace=True)))


Activation = Callable[[int], nn.Module]


@dataclass(frozen=True)
class Placement:
    """The placement of activations.

    F is always conv - batch norm - ReLU - conv (- batch norm - ReLU - conv), followed by `end`.
    """

    before: Activation
    end: tuple[str, ...]
    after: Activation
    stem: tuple[str, ...] = ("norm", "relu")  # after the CIFAR networks' first convolution
    final: Activation = identity  # after the last addition
    projection_norm: bool = True


Combine = Callable[[int, float], nn.Module]
"""(channels, initial bias of the gates) -> module of (shortcut, function)"""


@dataclass(frozen=True)
class UnitKind:
    placement: Placement
    combine: Combine = lambda c, bias: Sum()
    shortcut_dropout: float = 0.0
    conv_shortcut: bool = False  # a 1x1 convolution on every shortcut


ORIGINAL = Placement(before=identity, end=("norm",), after=relu)
TABLE_1 = {
    "constant_scaling_0_1": UnitKind(ORIGINAL, lambda c, bias: Sum(0.0, 1.0)),
    "constant_scaling_0.5_1": UnitKind(ORIGINAL, lambda c, bias: Sum(0.5, 1.0)),
    "constant_scaling_0.5_0.5": UnitKind(ORIGINAL, lambda c, bias: Sum(0.5, 0.5)),
    "exclusive_gating": UnitKind(ORIGINAL, lambda c, bias: Gated(c, bias, shortcut_only=False)),
    "shortcut_only_gating": UnitKind(ORIGINAL, lambda c, bias: Gated(c, bias, shortcut_only=True)),
    "conv_shortcut": UnitKind(ORIGINAL, conv_shortcut=True),
    "dropout_shortcut": UnitKind(ORIGINAL, shortcut_dropout=0.5),
}
TABLE_2 = {
    "original": UnitKind(ORIGINAL),
    "bn_after_addition": UnitKind(Placement(before=identity, end=(), after=norm_relu)),
    "relu_before_addition": UnitKind(Placement(before=identity, end=("norm", "relu"), after=identity)),
    "relu_only_preactivation": UnitKind(
        Placement(before=relu, end=("norm",), after=identity, stem=("norm",), final=relu)
    ),
    "full_preactivation": UnitKind(
        Placement(before=norm_relu, end=(), after=identity, stem=(), final=norm_relu, projection_norm=False)
    ),
}
UNITS = TABLE_2 | TABLE_1


@dataclass(frozen=True)
class Row:
    """Units and width of each stage; the output of a bottleneck has four times the width."""

    units: tuple[int, ...]
    bottleneck: bool
    widths: tuple[int, ...]
    input: tuple[int, int, int]


def _imagenet_row(*units: int) -> Row:
    return Row(units, True, (64, 128, 256, 512), (3, 224, 224))


def _cifar_row(n: int, bottleneck: bool) -> Row:
    return Row((n, n, n), bottleneck, (16, 32, 64), (3, 32, 32))


IMAGENET = {
    50: _imagenet_row(3, 4, 6, 3),
    101: _imagenet_row(3, 4, 23, 3),
    152: _imagenet_row(3, 8, 36, 3),
    200: _imagenet_row(3, 24, 36, 3),
}
CIFAR = {
    110: _cifar_row(18, bottleneck=False),
    164: _cifar_row(18, bottleneck=True),
    1001: _cifar_row(111, bottleneck=True),
}


class ResNetV2(Network):
    """images (n, in_chans, h, w) of any size (the paper: 224x224, CIFAR 32x32) -> logits (n, num_classes).

    `unit` is a name of `UNITS`; `gate_bias` the initial bias of the gates (Table 1: 0 to -7); `shortcut` "A"
    or "B" where shapes differ; `stride_in` the convolution of a bottleneck that has the stride, "1x1" or
    "3x3". The paper has no dropout; `dropout` drops the pooled features.
    """

    def __init__(
        self,
        row: Row,
        num_classes: int = 1000,
        in_chans: int = 3,
        width: float = 1.0,
        image_size: ImageSize = None,  # no layer depends on it: the features are averaged over the grid
        dropout: float = 0.0,
        unit: str = "full_preactivation",
        shortcut: str = "B",
        gate_bias: float = -6.0,
        stride_in: str = "1x1",
    ):
        super().__init__(in_chans)
        if unit not in UNITS:
            raise unknown_name("unit", unit, UNITS)
        if shortcut not in ("A", "B"):
            raise UsageError(f"shortcut {shortcut!r} does not exist: expected A or B")
        if stride_in not in ("1x1", "3x3"):
            raise UsageError(f"stride_in {stride_in!r} does not exist: expected 1x1 or 3x3")
        kind = UNITS[unit]
        c = scale_channels(row.widths[0], width)
        if row.input[1] == 32:
            self.conv1 = nn.Conv2d(in_chans, c, 3, padding=1, bias=False)
            for name in kind.placement.stem:
                self.add_module(f"{name}1", _norm_or_relu(name, c))
        else:
            self.conv1 = nn.Conv2d(in_chans, c, 7, 2, 3, bias=False)
            self.norm1 = nn.BatchNorm2d(c)
            self.relu1 = nn.ReLU(inplace=True)
            self.maxpool = nn.MaxPool2d(3, 2, 1)
        for stage, (filters, count) in enumerate(zip(row.widths, row.units, strict=True)):
            inner = scale_channels(filters, width)
            units = []
            for number in range(count):
                stride = 2 if stage > 0 and number == 0 else 1
                convs = bottleneck(inner, stride, stride_in) if row.bottleneck else basic(inner, stride)
                is_first = stage == 0 and number == 0
                units.append(make_unit(kind, c, convs, stride, shortcut, gate_bias, is_first))
                c = convs[-1][0]
            self.add_module(f"conv{stage + 2}_x", nn.Sequential(*units))
        self.final = kind.placement.final(c)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(c, num_classes)
        self.initialize(he_normal)
        for module in self.modules():
            if isinstance(module, Gated):
                module.init_bias()


ConvSpec = tuple[int, int, int]  # channels, kernel, stride


def basic(width: int, stride: int) -> list[ConvSpec]:
    return [(width, 3, stride), (width, 3, 1)]


def bottleneck(width: int, stride: int, stride_in: str) -> list[ConvSpec]:
    strides = (stride, 1) if stride_in == "1x1" else (1, stride)
    return [(width, 1, strides[0]), (width, 3, strides[1]), (4 * width, 1, 1)]


def make_unit(
    kind: UnitKind,
    c_in: int,
    convs: list[ConvSpec],
    stride: int,
    option: str,
    gate_bias: float,
    is_first: bool,
) -> Unit:
    """A residual unit. `option` is the shortcut where shapes differ; `is_first`: the network's first unit."""
    placement = kind.placement
    c_out = convs[-1][0]
    changes_shape = c_in != c_out or stride != 1
    function = nn.Sequential()
    c = c_in
    for number, (channels, kernel, conv_stride) in enumerate(convs, start=1):
        function.add_module(
            f"conv{number}", nn.Conv2d(c, channels, kernel, conv_stride, kernel // 2, bias=False)
        )
        for name in placement.end if number == len(convs) else ("norm", "relu"):
            function.add_module(f"{name}{number}", _norm_or_relu(name, channels))
        c = channels
    shortcut: nn.Module = nn.Identity()
    if kind.conv_shortcut or (changes_shape and option == "B"):
        if placement.projection_norm:
            shortcut = conv_norm(c_in, c_out, 1, stride)
        else:
            shortcut = nn.Conv2d(c_in, c_out, 1, stride, bias=False)
    elif changes_shape:
        shortcut = PaddedIdentity(c_in, c_out, stride)
    if kind.shortcut_dropout:
        dropout = nn.Dropout(kind.shortcut_dropout)
        shortcut = nn.Sequential(OrderedDict(shortcut=shortcut, dropout=dropout))
    return Unit(
        placement.before(c_in),
        function,
        shortcut,
        kind.combine(c_out, gate_bias),
        placement.after(c_out),
        # the first unit, and units that change the shape, activate before the two paths separate (appendix)
        activate_shortcut=changes_shape or is_first,
    )


def _norm_or_relu(name: str, channels: int) -> nn.Module:
    return nn.BatchNorm2d(channels) if name == "norm" else nn.ReLU(inplace=True)


def _entry(name: str, row: Row, source: str, headline: str, **defaults: Any) -> ModelEntry:
    return ModelEntry(
        name=name,
        builders={"paper": partial(ResNetV2, row)},
        paper="Identity Mappings in Deep Residual Networks",
        year=2016,
        source=source,
        input=row.input,
        headline=headline,
        defaults=defaults,
    )


_TABLE_2_SOURCE, _TABLE_3_SOURCE = "arXiv:1603.05027, Table 2", "arXiv:1603.05027, Table 3"
_TABLE_3 = "{} %, CIFAR-10 test (Table 3)"
_TABLE_5 = "top-5 {} %, ILSVRC-2012 validation, 1 crop of 320 (Table 5)"
_HEADLINES = {152: _TABLE_5.format("5.5"), 200: _TABLE_5.format("5.3")}
ENTRIES = [
    *(
        _entry(
            f"resnetv2_{n}",
            row,
            "arXiv:1603.05027, sec. 5",
            _HEADLINES.get(n, "none printed"),
            stride_in="3x3",
        )
        for n, row in IMAGENET.items()
    ),
    _entry(
        "resnetv2_110_cifar",
        CIFAR[110],
        _TABLE_2_SOURCE,
        _TABLE_3.format("6.37"),
        num_classes=10,
        shortcut="A",
    ),
    _entry("resnetv2_164_cifar", CIFAR[164], _TABLE_2_SOURCE, _TABLE_3.format("5.46"), num_classes=10),
    _entry("resnetv2_1001_cifar", CIFAR[1001], _TABLE_3_SOURCE, _TABLE_3.format("4.92"), num_classes=10),
]
