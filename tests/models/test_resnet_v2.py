"""Every unit of Tables 1 and 2 of arXiv:1603.05027 against an implementation from its figures."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from helpers.networks import randomize_weights
from torch import Tensor, nn

from convatlas.layers.pre_activation import Unit
from convatlas.models.resnet_v2 import TABLE_1, TABLE_2, UNITS, basic, make_unit

Layers = dict[str, Callable[[Tensor], Tensor]]


def layers_by_path(unit: Unit) -> Layers:
    """The unit's convolutions and norms by path, as functions."""
    layers: Layers = {}
    for path, module in unit.named_modules():
        if isinstance(module, nn.Conv2d | nn.BatchNorm2d):
            layers[path] = module
    return layers


def original(x: Tensor, p: Layers) -> Tensor:
    y = F.relu(p["function.norm1"](p["function.conv1"](x)))
    return p["function.norm2"](p["function.conv2"](y))


def gate(x: Tensor, p: Layers) -> Tensor:
    return 1 / (1 + torch.exp(-p["combine.gate"](x)))


# Fig. 4
def bn_after_addition(x: Tensor, p: Layers) -> Tensor:
    y = p["function.conv2"](F.relu(p["function.norm1"](p["function.conv1"](x))))
    return F.relu(p["after.norm"](x + y))


def relu_before_addition(x: Tensor, p: Layers) -> Tensor:
    return x + F.relu(original(x, p))


def relu_only_preactivation(x: Tensor, p: Layers) -> Tensor:
    return x + original(F.relu(x), p)


def full_preactivation(x: Tensor, p: Layers) -> Tensor:
    y = p["function.conv1"](F.relu(p["before.norm"](x)))
    return x + p["function.conv2"](F.relu(p["function.norm1"](y)))


EQUATIONS: dict[str, Callable[[Tensor, Layers], Tensor]] = {
    "original": lambda x, p: F.relu(x + original(x, p)),
    "bn_after_addition": bn_after_addition,
    "relu_before_addition": relu_before_addition,
    "relu_only_preactivation": relu_only_preactivation,
    "full_preactivation": full_preactivation,
    # Fig. 2, Table 1
    "constant_scaling_0_1": lambda x, p: F.relu(original(x, p)),
    "constant_scaling_0.5_1": lambda x, p: F.relu(0.5 * x + original(x, p)),
    "constant_scaling_0.5_0.5": lambda x, p: F.relu(0.5 * x + 0.5 * original(x, p)),
    "exclusive_gating": lambda x, p: F.relu((1 - gate(x, p)) * x + gate(x, p) * original(x, p)),
    "shortcut_only_gating": lambda x, p: F.relu((1 - gate(x, p)) * x + original(x, p)),
    "conv_shortcut": lambda x, p: F.relu(p["shortcut.norm"](p["shortcut.conv"](x)) + original(x, p)),
    "dropout_shortcut": lambda x, p: F.relu(x + original(x, p)),  # in evaluation; training is tested below
}


def make(name: str) -> Unit:
    unit = make_unit(UNITS[name], 6, basic(6, 1), 1, "A", -6.0, is_first=False)
    randomize_weights(unit).double().eval()
    return unit


def test_every_unit_of_both_tables_is_tested() -> None:
    assert len(TABLE_2) == 5
    assert len(TABLE_1) == 7  # the original is Table 2's; a gate's bias is an argument
    assert EQUATIONS.keys() == UNITS.keys()


@pytest.mark.parametrize("name", UNITS)
def test_a_unit_computes_the_papers_equation(name: str) -> None:
    unit = make(name)
    x = torch.randn(2, 6, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(unit(x), EQUATIONS[name](x, layers_by_path(unit)), rtol=1e-12, atol=1e-12)


def test_dropout_acts_on_the_shortcut_alone() -> None:
    unit = make("dropout_shortcut")
    x = torch.ones(1, 6, 4, 4, dtype=torch.float64)
    shortcut = unit.shortcut.train()
    assert set(shortcut(x).unique().tolist()) == {0.0, 2.0}


def test_first_and_shape_changing_units_activate_before_both_paths() -> None:
    for c_in, stride, is_first in ((6, 1, True), (4, 2, False)):
        unit = make_unit(UNITS["full_preactivation"], c_in, basic(6, stride), stride, "B", -6.0, is_first)
        randomize_weights(unit).double().eval()
        x = torch.randn(2, c_in, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            activated = F.relu(layers_by_path(unit)["before.norm"](x))
            torch.testing.assert_close(unit(x), unit.shortcut(activated) + unit.function(activated))
