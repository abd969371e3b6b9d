"""Narrow strided 1x1 convolutions train on every CPU."""

import copy

import pytest
import torch
from torch import nn

from convatlas import models
from convatlas.layers import subsampled_conv
from convatlas.layers.subsampled_conv import SubsampledConv2d, replace_strided_1x1_convs

CPU = torch.device("cpu")


def old_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subsampled_conv, "cpu_matrix_features", lambda: ("avx2",))


@pytest.mark.parametrize(("bias", "stride"), [(False, 2), (True, (3, 2))])
def test_outputs_and_gradients_are_those_of_the_convolution(
    bias: bool, stride: int | tuple[int, int]
) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(5, 7, 1, stride, bias=bias).double()
    results = []
    images = torch.randn(3, 5, 11, 8, dtype=torch.float64)  # channels first: torch's own is right
    subsampled = copy.deepcopy(conv)
    replace_strided_1x1_convs(subsampled, CPU)
    assert type(subsampled) is SubsampledConv2d
    for module in (conv, subsampled):
        x = images.clone().requires_grad_()
        y = module(x)
        results.append([y, *torch.autograd.grad(y.square().sum(), [x, *module.parameters()])])
    for expected, actual in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


def test_a_narrow_network_trains_in_channels_last_format(monkeypatch: pytest.MonkeyPatch) -> None:
    old_cpu(monkeypatch)
    model = models.create_model("resnet20_cifar", width=0.25, shortcut="B")
    keys = model.state_dict().keys()
    replace_strided_1x1_convs(model, CPU)
    assert (
        sum(type(module) is SubsampledConv2d for module in model.modules()) == 1
    )  # of 4 channels; 8 are safe
    assert model.state_dict().keys() == keys
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    images = torch.randn(8, 3, 16, 16).contiguous(memory_format=torch.channels_last)
    for _ in range(5):
        torch.autograd.backward(model(images).sum())


def test_other_convolutions_and_cpus_keep_those_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(
        nn.Conv2d(8, 4, 1, 2), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 3, 2), nn.Conv2d(4, 4, 1, 2, 1)
    )
    narrow = nn.Sequential(nn.Conv2d(4, 4, 1, 2))
    with monkeypatch.context() as patched:
        old_cpu(patched)
        replace_strided_1x1_convs(model, CPU)
        replace_strided_1x1_convs(narrow, torch.device("cuda"))
    monkeypatch.setattr(subsampled_conv, "cpu_matrix_features", lambda: ("avx512f", "avx2"))
    replace_strided_1x1_convs(narrow, CPU)
    assert {type(module) for module in (*model, *narrow)} == {nn.Conv2d}
