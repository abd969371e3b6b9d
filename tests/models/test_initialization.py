"""The initial weights follow the papers."""

import math

import pytest
import torch
from torch import nn

from convatlas import models
from convatlas.models import Network


def seeded_model(name: str, **arguments: object) -> Network:
    torch.manual_seed(0)
    return models.create_model(name, **arguments)  # type: ignore[arg-type]


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {
        path: layer.weight
        for path, layer in model.named_modules()
        if isinstance(layer, nn.Conv2d | nn.Linear)
    }


def check_mean_and_std(weight: torch.Tensor, std: float) -> None:
    """The mean is zero and the standard deviation is `std`, within five times the sampling error."""
    n = weight.numel()
    assert abs(weight.mean().item()) < 5 * std / math.sqrt(n)
    assert abs(weight.std().item() / std - 1) < 5 / math.sqrt(2 * n)


@pytest.mark.parametrize(
    ("name", "std"), [("alexnet", 0.01), ("zfnet", 0.01), ("vgg11", 0.1), ("vgg11_lrn", 0.1)]
)
def test_gaussians_have_the_printed_standard_deviation(name: str, std: float) -> None:
    model = seeded_model(name, width=0.25)
    for weight in weights(model).values():
        check_mean_and_std(weight, std)


def test_alexnets_biases_are_1_in_layers_2_and_4_to_7_else_0() -> None:
    model = seeded_model("alexnet", width=0.25)
    for path in weights(model):
        expected = 1.0 if path in ("conv2", "conv4", "conv5", "fc6", "fc7") else 0.0
        assert (model.get_parameter(f"{path}.bias") == expected).all(), path


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnetv2_50", "se_resnet50", "shufflenet_v1"])
def test_residual_and_shuffle_networks_have_hes_initialisation(name: str) -> None:
    for weight in weights(seeded_model(name, width=0.5)).values():
        check_mean_and_std(weight, math.sqrt(2 / weight[0].numel()))


@pytest.mark.parametrize("name", ["vgg16", "googlenet", "bn_inception", "xception"])
def test_weights_fill_glorots_range(name: str) -> None:
    for weight in weights(seeded_model(name, width=0.25)).values():
        area = weight[0, 0].numel()
        bound = math.sqrt(6 / (area * weight.shape[1] + area * weight.shape[0]))
        assert 0.9 * bound < weight.abs().max().item() <= bound * 1.000001


def test_inception_v3_has_gaussians_truncated_at_two_standard_deviations() -> None:
    model = seeded_model("inception_v3", width=0.25)
    stds = {"aux.conv2.conv": 0.01, "aux.logits": 0.001}
    for path, weight in weights(model).items():
        std = stds.get(path, 0.1)
        assert 1.5 * std < weight.abs().max().item() <= 2 * std * 1.000001


def test_gates_have_the_requested_initial_bias() -> None:
    model = seeded_model("resnetv2_110_cifar", unit="exclusive_gating", gate_bias=-7.0)
    gates = [module for path, module in model.named_modules() if path.endswith("combine.gate")]
    assert len(gates) == 54
    for gate in gates:
        assert isinstance(gate, nn.Conv2d)
        assert gate.bias is not None
        assert (gate.bias == -7).all()
