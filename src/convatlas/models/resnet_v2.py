"""Pre-activation ResNet. He, Zhang, Ren, Sun 2016, "Identity Mappings in Deep Residual Networks", arXiv:1603.05027.

A unit is y = after(combine(h(x), F(before(x)))). `unit` chooses among all that the paper tries: the shortcuts of Table 1 and Fig. 2,
on units of the original form, and the activation placements of Table 2 and Fig. 4; by default full pre-activation.

With pre-activation the first unit, and those that change the shape, activate before the paths part (appendix); a last activation
follows the last addition; projections have no batch norm.

Slips resolved
- 10.2M parameters are printed for ResNet-1001: its convolutions alone have 10,175,920.
Unstated: how gates, scaling and dropout meet a shortcut that changes the shape (ours: they act on its output); what stands after the
stem's convolution (ours: for ImageNet batch norm, ReLU and pooling; for CIFAR whatever keeps the order of the units); where a
bottleneck's stride stands (ours: `stride_in="3x3"` for ImageNet, as in the released ResNet-200, "1x1" otherwise, as in ResNet).
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from convatlas.errors import UsageError, unknown_name
from convatlas.layers.conv import conv_norm
from convatlas.layers.init import he
from convatlas.layers.residual import PaddedIdentity
from convatlas.models.network import ModelEntry, Network, Size, scaled


class Sum(nn.Module):
    """h(x) + F(x), each times a constant (sec. 3.1: constant scaling)."""

    def __init__(self, on_shortcut: float = 1.0, on_function: float = 1.0):
        super().__init__()
        self.on_shortcut, self.on_function = on_shortcut, on_function

    def forward(self, shortcut: Tensor, function: Tensor) -> Tensor:
        if self.on_shortcut == self.on_function == 1:
            return shortcut + function
        return self.on_shortcut * shortcut + self.on_function * function

    def extra_repr(self) -> str:
        return f"on_shortcut={self.on_shortcut}, on_function={self.on_function}"


class Gated(nn.Module):
    """(1 - g) h(x) + g F(x) with g = sigmoid(W_g x + b_g), a 1x1 convolution (sec. 3.1: exclusive gating); with `shortcut_only`,
    (1 - g) h(x) + F(x)."""

    def __init__(self, channels: int, bias: float, shortcut_only: bool):
        super().__init__()
        self.gate = nn.Conv2d(channels, channels, 1)
        self.bias, self.shortcut_only = bias, shortcut_only

    def forward(self, shortcut: Tensor, function: Tensor) -> Tensor:
        g = torch.sigmoid(self.gate(shortcut))
        return (1 - g) * shortcut + (function if self.shortcut_only else g * function)

    def initialise(self) -> None:
        nn.init.constant_(self.gate.bias, self.bias)  # type: ignore[arg-type]


class Unit(nn.Module):
    """y = after(combine(h(x), F(before(x)))); with `both`, h sees before(x) too."""

    def __init__(self, before: nn.Module, function: nn.Module, shortcut: nn.Module, combine: nn.Module, after: nn.Module, both: bool):
        super().__init__()
        self.before, self.function, self.shortcut, self.combine, self.after, self.both = before, function, shortcut, combine, after, both

    def forward(self, x: Tensor) -> Tensor:
        activated = self.before(x)
        y: Tensor = self.after(self.combine(self.shortcut(activated if self.both else x), self.function(activated)))
        return y


def nothing(c: int) -> nn.Module:
    return nn.Identity()


def relu(c: int) -> nn.Module:
    return nn.ReLU()  # not in place: its input is also what the shortcut carries on


def norm_relu(c: int) -> nn.Module:
    return nn.Sequential(OrderedDict(norm=nn.BatchNorm2d(c), relu=nn.ReLU(inplace=True)))


Activation = Callable[[int], nn.Module]


@dataclass(frozen=True)
class Placement:
    """Where activations stand. F is always conv - batch norm - ReLU - conv (- batch norm - ReLU - conv), and then `end`."""

    before: Activation
    end: tuple[str, ...]
    after: Activation
    stem: tuple[str, ...] = ("norm", "relu")  # after the CIFAR networks' first convolution
    final: Activation = nothing  # after the last addition
    projection_norm: bool = True


Combine = Callable[[int, float], nn.Module]
"""(channels, the gates' first bias) -> module of (shortcut, function)"""


@dataclass(frozen=True)
class UnitKind:
    placement: Placement
    combine: Combine = lambda c, bias: Sum()
    dropout: float = 0.0  # on the shortcut
    convolve: bool = False  # a 1x1 convolution on every shortcut


ORIGINAL = Placement(before=nothing, end=("norm",), after=relu)
TABLE_1 = {
    "constant_scaling_0_1": UnitKind(ORIGINAL, lambda c, bias: Sum(0.0, 1.0)),
    "constant_scaling_0.5_1": UnitKind(ORIGINAL, lambda c, bias: Sum(0.5, 1.0)),
    "constant_scaling_0.5_0.5": UnitKind(ORIGINAL, lambda c, bias: Sum(0.5, 0.5)),
    "exclusive_gating": UnitKind(ORIGINAL, lambda c, bias: Gated(c, bias, shortcut_only=False)),
    "shortcut_only_gating": UnitKind(ORIGINAL, lambda c, bias: Gated(c, bias, shortcut_only=True)),
    "conv_shortcut": UnitKind(ORIGINAL, convolve=True),
    "dropout_shortcut": UnitKind(ORIGINAL, dropout=0.5),
}
TABLE_2 = {
    "original": UnitKind(ORIGINAL),
    "bn_after_addition": UnitKind(Placement(before=nothing, end=(), after=norm_relu)),
    "relu_before_addition": UnitKind(Placement(before=nothing, end=("norm", "relu"), after=nothing)),
    "relu_only_preactivation": UnitKind(Placement(before=relu, end=("norm",), after=nothing, stem=("norm",), final=relu)),
    "full_preactivation": UnitKind(
        Placement(before=norm_relu, end=(), after=nothing, stem=(), final=norm_relu, projection_norm=False)
    ),
}  # fmt: skip
UNITS = TABLE_2 | TABLE_1


@dataclass(frozen=True)
class Row:
    """Units and width of each stage, and whether a unit is a bottleneck, which gives four times its width."""

    units: tuple[int, ...]
    bottleneck: bool
    widths: tuple[int, ...]
    input: tuple[int, int, int]


def _imagenet(*units: int) -> Row:
    return Row(units, True, (64, 128, 256, 512), (3, 224, 224))


def _cifar(n: int, bottleneck: bool) -> Row:
    return Row((n, n, n), bottleneck, (16, 32, 64), (3, 32, 32))


IMAGENET = {50: _imagenet(3, 4, 6, 3), 101: _imagenet(3, 4, 23, 3), 152: _imagenet(3, 8, 36, 3), 200: _imagenet(3, 24, 36, 3)}
CIFAR = {110: _cifar(18, bottleneck=False), 164: _cifar(18, bottleneck=True), 1001: _cifar(111, bottleneck=True)}


class ResNetV2(Network):
    """images (n, in_chans, h, w) of any size (the paper: 224x224, for CIFAR 32x32) -> logits (n, num_classes).

    `unit` is a name of `UNITS`; `gate_bias` where the gates' biases begin (Table 1: 0 to -7); `shortcut` "A" or "B" where shapes
    differ; `stride_in` "1x1" or "3x3" of a bottleneck. The paper has no dropout; `dropout` drops the pooled features.
    """

    def __init__(
        self,
        row: Row,
        num_classes: int = 1000,
        in_chans: int = 3,
        width: float = 1.0,
        image_size: Size = None,  # nothing here depends on it: the features are averaged over the grid
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
        kind, c = UNITS[unit], scaled(row.widths[0], width)
        stem: Any
        if row.input[1] == 32:
            self.conv1 = nn.Conv2d(in_chans, c, 3, padding=1, bias=False)
            stem = {"norm": partial(nn.BatchNorm2d, c), "relu": partial(nn.ReLU, inplace=True)}
            for name in kind.placement.stem:
                self.add_module(f"{name}1", stem[name]())
        else:
            self.conv1 = nn.Conv2d(in_chans, c, 7, 2, 3, bias=False)
            self.norm1 = nn.BatchNorm2d(c)
            self.relu1 = nn.ReLU(inplace=True)
            self.maxpool = nn.MaxPool2d(3, 2, 1)
        for stage, (filters, count) in enumerate(zip(row.widths, row.units, strict=True)):
            inner, units = scaled(filters, width), []
            for number in range(count):
                stride = 2 if stage > 0 and number == 0 else 1
                convolutions = bottleneck(inner, stride, stride_in) if row.bottleneck else basic(inner, stride)
                first = stage == 0 and number == 0
                units.append(make_unit(kind, c, convolutions, stride, shortcut, gate_bias, first))
                c = convolutions[-1][0]
            self.add_module(f"conv{stage + 2}_x", nn.Sequential(*units))
        self.final = kind.placement.final(c)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(c, num_classes)
        self.apply(he)
        for module in self.modules():
            if isinstance(module, Gated):
                module.initialise()


Convolution = tuple[int, int, int]  # channels, kernel, stride


def basic(width: int, stride: int) -> list[Convolution]:
    return [(width, 3, stride), (width, 3, 1)]


def bottleneck(width: int, stride: int, stride_in: str) -> list[Convolution]:
    strides = (stride, 1) if stride_in == "1x1" else (1, stride)
    return [(width, 1, strides[0]), (width, 3, strides[1]), (4 * width, 1, 1)]


def make_unit(kind: UnitKind, c_in: int, convolutions: list[Convolution], stride: int, option: str, gate_bias: float, first: bool) -> Unit:
    placement, c_out = kind.placement, convolutions[-1][0]
    function, c = nn.Sequential(), c_in
    for number, (channels, kernel, step) in enumerate(convolutions, start=1):
        function.add_module(f"conv{number}", nn.Conv2d(c, channels, kernel, step, kernel // 2, bias=False))
        last = number == len(convolutions)
        for name in placement.end if last else ("norm", "relu"):
            function.add_module(f"{name}{number}", nn.BatchNorm2d(channels) if name == "norm" else nn.ReLU(inplace=True))
        c = channels
    differs = c_in != c_out or stride != 1
    shortcut: nn.Module = nn.Identity()
    if kind.convolve or (differs and option == "B"):
        shortcut = conv_norm(c_in, c_out, 1, stride) if placement.projection_norm else nn.Conv2d(c_in, c_out, 1, stride, bias=False)
    elif differs:
        shortcut = PaddedIdentity(c_in, c_out, stride)
    if kind.dropout:
        shortcut = nn.Sequential(OrderedDict(shortcut=shortcut, dropout=nn.Dropout(kind.dropout)))
    # An activation that is part of the unit comes before the paths part where there is nothing clean to carry on
    both = differs or first
    return Unit(placement.before(c_in), function, shortcut, kind.combine(c_out, gate_bias), placement.after(c_out), both)


def _entry(name: str, row: Row, source: str, headline: str, **defaults: Any) -> ModelEntry:
    return ModelEntry(
        name=name,
        builds={"paper": partial(ResNetV2, row)},
        paper="Identity Mappings in Deep Residual Networks",
        year=2016,
        source=source,
        input=row.input,
        headline=headline,
        defaults=defaults,
    )


_TABLE_3 = "{} %, CIFAR-10 test (Table 3)"
_TABLE_5 = "top-5 {} %, ILSVRC-2012 validation, 1 crop of 320 (Table 5)"
_HEADLINES = {152: _TABLE_5.format("5.5"), 200: _TABLE_5.format("5.3")}
ENTRIES = [
    *(
        _entry(f"resnetv2_{n}", row, "arXiv:1603.05027, sec. 5", _HEADLINES.get(n, "none printed"), stride_in="3x3")
        for n, row in IMAGENET.items()
    ),
    _entry("resnetv2_110_cifar", CIFAR[110], "arXiv:1603.05027, Table 2", _TABLE_3.format("6.37"), num_classes=10, shortcut="A"),
    _entry("resnetv2_164_cifar", CIFAR[164], "arXiv:1603.05027, Table 2", _TABLE_3.format("5.46"), num_classes=10),
    _entry("resnetv2_1001_cifar", CIFAR[1001], "arXiv:1603.05027, Table 3", _TABLE_3.format("4.92"), num_classes=10),
]
