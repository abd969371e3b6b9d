"""The receptive fields of torch.nn's own modules, against the pixels that really change a unit."""

import importlib
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from convatlas.analysis import analyze

CHANNELS = 4
SIDES = {1: (16,), 2: (12, 16), 3: (8, 10, 6)}  # by the number of the image's axes
NUM_IMAGES = 96  # a maximum or a zero slope hides a pixel in one image, hardly in all of them

FAMILIES = "activation pooling batchnorm instancenorm normalization padding upsampling pixelshuffle"
FAMILIES += " channelshuffle dropout fold"
MODULES = sorted(
    name
    for family in FAMILIES.split()
    for name in importlib.import_module(f"torch.nn.modules.{family}").__all__
)


class Unpooled(nn.Module):
    """Max pooling and its inverse."""

    def __init__(self, num_axes: int):
        super().__init__()
        self.pool = getattr(nn, f"MaxPool{num_axes}d")(2, return_indices=True)
        self.unpool = getattr(nn, f"MaxUnpool{num_axes}d")(2)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.unpool(*self.pool(x))
        return y


class Refolded(nn.Module):
    """Patches of 2x2 pixels, mixed, and added up at their places."""

    def __init__(self, sides: Sequence[int], argument: str):
        super().__init__()
        geometry = {argument: 1 if argument == "padding" else 2}
        self.unfold = nn.Unfold(2, **geometry)
        self.mix = nn.Conv1d(4 * CHANNELS, 4 * CHANNELS, 1)
        self.fold = nn.Fold((sides[0], sides[1]), 2, **geometry)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fold(self.mix(self.unfold(x)))
        return y


class Attention(nn.Module):
    """Every position attends to all positions."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(CHANNELS, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).transpose(1, 2)
        y: Tensor = self.attention(tokens, tokens, tokens)[0]
        return y.transpose(1, 2).reshape(x.shape)


@dataclass(frozen=True)
class Case:
    """`inexact`: why the field may be larger than the pixels that change a unit; empty where it is exact."""

    name: str
    build: Callable[[], nn.Module]
    num_axes: int = 2
    inexact: str = ""


BY_INDICES = "indices say where a unit goes: any unit may come from any other"
WRAPS = "the two ends of an axis are connected: the field is all of it"


def cases_of(name: str) -> list[Case]:
    """The module with arguments under which a wrong rule would show, for each number of axes that it has."""
    kind = getattr(nn, name)
    num_axes = int(name[-2]) if name[-1] == "d" and name[-2].isdigit() else 2
    sides = SIDES[num_axes]

    def case(*args: Any, inexact: str = "", **kwargs: Any) -> Case:
        return Case(name, partial(kind, *args, **kwargs), num_axes, inexact)

    if name.startswith("MaxUnpool"):
        return [Case(name, partial(Unpooled, num_axes), num_axes, BY_INDICES)]
    if name.startswith("MaxPool"):
        return [case(3, 2, 1), case(2, dilation=2), case(3, 2, ceil_mode=True)]
    if name.startswith("AvgPool"):
        return [case(3, 2, 1), case(2), case(3, 2, ceil_mode=True)]
    if name.startswith("LPPool"):
        return [case(2, 3, 2)]
    if name.startswith("Fractional"):
        return [case(3, output_size=3), case(2, output_ratio=0.6), case(2, output_size=1)]
    if name.startswith("Adaptive"):
        return [case(1), case(tuple(side // 2 + 1 for side in sides))]
    if name.endswith(("Pad1d", "Pad2d", "Pad3d")):
        arguments: tuple[Any, ...] = (
            (tuple(range(1, 2 * num_axes + 1))[: 2 * num_axes],) if num_axes < 3 else (2,)
        )
        arguments += (0.5,) if name.startswith("Constant") else ()
        return [case(*arguments, inexact=WRAPS if name.startswith("Circular") else "")]
    if name == "Upsample":
        return [
            Case(name, partial(nn.Upsample, mode=mode, **size), axes)
            for mode, axes in (
                *(("nearest", axes) for axes in (1, 2, 3)),
                *(("nearest-exact", axes) for axes in (1, 2, 3)),
                *(("linear", 1), ("bilinear", 2), ("bicubic", 2), ("trilinear", 3)),
            )
            for size in ({"scale_factor": 2}, {"size": tuple(3 * side // 2 for side in SIDES[axes])})
        ]
    if name.startswith("Upsampling"):
        return [case(scale_factor=2)]
    if name == "LocalResponseNorm":
        return [Case(name, partial(nn.LocalResponseNorm, 3), axes) for axes in (1, 2, 3)]
    if name == "Fold":
        return [
            Case(name, partial(Refolded, sides, geometry)) for geometry in ("stride", "padding", "dilation")
        ]
    if name == "Unfold":
        return [case(3)]
    if name == "MultiheadAttention":
        return [Case(name, Attention)]
    if name in ("Softmin", "Softmax", "LogSoftmax", "GLU"):
        return [case(1), case(2), case(3)]
    arguments_by_name: dict[str, tuple[Any, ...]] = {
        "Threshold": (0.1, 0.0),
        "CrossMapLRN2d": (3,),
        "GroupNorm": (2, CHANNELS),
        "LayerNorm": ((CHANNELS, *sides),),
        "RMSNorm": ((sides[-1],),),
        "PixelShuffle": (2,),
        "PixelUnshuffle": (2,),
        "ChannelShuffle": (2,),
        "PReLU": (CHANNELS,),
    }
    if "BatchNorm" in name or "InstanceNorm" in name:
        return [case(CHANNELS)]
    return [case(*arguments_by_name.get(name, ()))]


NO_RULE = {  # analysed, and named in the report's notes
    "CrossMapLRN2d": "resize_as_",
}
NO_SHAPE = [name for name in MODULES if name.startswith("Lazy")]  # their parameters have no shapes yet
CASES = [case for name in MODULES if name not in NO_SHAPE for case in cases_of(name)]


def case_id(case: Case) -> str:
    return f"{case.build()!r}".replace("\n", "").replace(" ", "")[:80] + f"-{case.num_axes}"


def changing_pixels(module: nn.Module, images: Tensor, unit: Sequence[int]) -> list[tuple[int, int] | None]:
    """First and last pixel, along each axis, by which the unit of any channel and image has a gradient."""
    out = module(images)
    selected = out[(slice(None), slice(None), *unit)]
    weights = torch.rand(selected.shape, generator=torch.Generator().manual_seed(1), dtype=selected.dtype)
    (gradient,) = torch.autograd.grad((selected * weights).sum(), images)
    changes = (gradient != 0).any(1).any(0)
    intervals: list[tuple[int, int] | None] = []
    for axis in range(changes.dim()):
        others = [other for other in range(changes.dim()) if other != axis]
        pixels = (
            changes.sum(others).nonzero().flatten().tolist()
            if others
            else changes.nonzero().flatten().tolist()
        )
        intervals.append((pixels[0], pixels[-1]) if pixels else None)
    return intervals


@pytest.mark.parametrize("case", [case for case in CASES if case.name not in NO_RULE], ids=case_id)
def test_a_modules_field_is_the_pixels_that_change_a_unit(case: Case) -> None:
    torch.manual_seed(0)
    sides = SIDES[case.num_axes]
    module = case.build().double().eval()
    images = torch.randn(NUM_IMAGES, CHANNELS, *sides, dtype=torch.float64).requires_grad_()
    report = analyze(module, torch.empty(1, CHANNELS, *sides, dtype=torch.float64))
    assert not [note for note in report.notes if "unsupported" in note]
    if case.name == "Unfold":  # its positions lie in one dimension
        columns = sides[1] - 2
        row, column = 4, 5
        assert report.pixels("", (row * columns + column,)) == ((row, row + 2), (column, column + 2))
        return
    shape = module(images).shape[2:]
    middle = tuple(side // 2 for side in shape)
    ends = itertools.product(*((0, side - 1) for side in shape))
    reflects = case.name.startswith(("Reflection", "Replication"))  # the map is assumed to continue instead
    for unit in [middle] if reflects else [middle, *ends]:
        gradients = changing_pixels(module, images, unit)
        for gradient, field, side in zip(gradients, report.pixels("", unit), sides, strict=True):
            assert field is not None
            if gradient is None:
                continue  # a unit in the padding
            assert field[0] <= gradient[0]
            assert gradient[1] <= field[1]
            if unit == middle and not case.inexact:
                assert gradient == (max(field[0], 0), min(field[1], side - 1))


@pytest.mark.parametrize("name", NO_RULE)
def test_an_operator_without_a_rule_is_named(name: str) -> None:
    (case,) = cases_of(name)
    report = analyze(case.build(), (CHANNELS, *SIDES[2]))
    assert any(f"unsupported operator: {NO_RULE[name]}" in note for note in report.notes)
    assert [extent.size for extent in report.receptive_field("")] == list(SIDES[2])
