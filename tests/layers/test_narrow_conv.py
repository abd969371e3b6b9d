"""LeNet-5's training layers compute what its plain layers compute, and those what the paper prints."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from convatlas import models
from convatlas.layers.fused_batch_norm import choose_kernels
from convatlas.layers.kernels import Kernels
from convatlas.layers.lenet import PartialConv2d, Subsample
from convatlas.layers.narrow_conv import (
    MIN_IMAGES,
    NarrowConv2d,
    NarrowPartialConv2d,
    NarrowScaledTanh,
    NarrowSubsample,
    has_narrow_layers,
    replace_narrow_layers,
)
from convatlas.models.lenet5 import C3


@pytest.fixture(scope="module")
def kernels() -> Kernels:
    kernels = choose_kernels(Subsample(1), torch.device("cpu"))
    if kernels is None:
        pytest.skip("no C++ compiler")
    return kernels


def narrow(model: nn.Module, kernels: Kernels) -> nn.Module:
    """A copy of a layer or a LeNet-5 with the layers for training."""
    wrapped = nn.Sequential(copy.deepcopy(model), Subsample(1))
    replace_narrow_layers(wrapped, kernels)
    return wrapped[0]


def outputs_and_gradients(model: nn.Module, x: Tensor) -> list[Tensor]:
    x = x.clone().requires_grad_()
    y = model(x)
    weights = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view(y.shape)
    return [y.detach(), *torch.autograd.grad((y * weights).sum(), [x, *model.parameters()])]


def assert_same(model: nn.Module, x: Tensor, kernels: Kernels) -> None:
    changed = narrow(model, kernels)
    expected, actual = outputs_and_gradients(model, x), outputs_and_gradients(changed, x)
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10 * float(b.abs().max()))


@pytest.mark.parametrize("images", [16, 37, 128])
@pytest.mark.parametrize("size", [(5, 5), (5, 13), (12, 6), (14, 32)])
def test_a_convolution_of_few_maps_is_that_of_torch(
    kernels: Kernels, images: int, size: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    x = torch.randn(images, 2, *size, dtype=torch.float64)
    assert_same(nn.Conv2d(2, 3, 5).double(), x, kernels)
    assert_same(nn.Conv2d(2, 3, 5, bias=False).double(), x.to(memory_format=torch.channels_last), kernels)


def test_a_partial_convolution_is_the_dense_one_with_zeros(kernels: Kernels) -> None:
    torch.manual_seed(0)
    layer = PartialConv2d(6, C3, 5).double()
    nn.init.normal_(layer.weight)
    nn.init.normal_(layer.bias)
    assert_same(layer, torch.randn(20, 6, 14, 14, dtype=torch.float64), kernels)


@pytest.mark.parametrize("image_size", [(32, 32), (28, 28), (37, 22)])
@pytest.mark.parametrize("arguments", [{}, {"width": 2, "in_chans": 3}, {"width": 3.5}], ids=str)
def test_a_step_of_lenet5_is_the_same(
    kernels: Kernels, image_size: tuple[int, int], arguments: dict[str, Any]
) -> None:
    torch.manual_seed(0)
    model = models.create_model("lenet5", image_size=image_size, **arguments).double()
    images = torch.randn(19, arguments.get("in_chans", 1), *image_size, dtype=torch.float64)
    assert_same(model, images, kernels)


def test_float32_is_as_exact_as_torch(kernels: Kernels) -> None:
    torch.manual_seed(0)
    model = models.create_model("lenet5")
    images = torch.randn(128, 1, 32, 32)
    exact = outputs_and_gradients(copy.deepcopy(model).double(), images.double())
    plain, changed = (outputs_and_gradients(m, images) for m in (model, narrow(model, kernels)))
    for reference, a, b in zip(exact, plain, changed, strict=True):
        scale = reference.abs().max()
        error_of_torch, error = ((t - reference).abs().max() / scale for t in (a, b))
        assert error < 4 * error_of_torch + 1e-6


def test_the_bits_do_not_depend_on_the_number_of_threads(kernels: Kernels) -> None:
    torch.manual_seed(0)
    layer = narrow(nn.Conv2d(1, 6, 5), kernels)
    images = torch.randn(100, 1, 32, 32)
    threads = torch.get_num_threads()
    results = []
    try:
        for number in (1, 3):
            torch.set_num_threads(number)
            y = layer(images)
            results.append([y, *torch.autograd.grad(y.square().sum(), list(layer.parameters()))])
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_a_lenet5_is_changed_only_for_training(kernels: Kernels) -> None:
    model = models.create_model("lenet5")
    changed = narrow(model, kernels)
    kinds = [type(module) for module in changed.modules() if hasattr(module, "weight")]
    assert kinds == [NarrowConv2d, NarrowPartialConv2d, NarrowConv2d, nn.Linear]
    assert changed.state_dict().keys() == model.state_dict().keys()
    images = torch.randn(MIN_IMAGES, 1, 32, 32)
    assert torch.equal(changed.eval()(images), model.eval()(images))
    few = images[: MIN_IMAGES - 1]
    torch.testing.assert_close(changed.train()(few), model.train()(few))


def test_other_networks_keep_their_layers(kernels: Kernels) -> None:
    model = nn.Sequential(nn.Conv2d(1, 6, 5), nn.AvgPool2d(2))
    assert not has_narrow_layers(model)
    replace_narrow_layers(model, kernels)
    assert type(model[0]) is nn.Conv2d
    strided = nn.Sequential(nn.Conv2d(1, 6, 5, stride=2), Subsample(6), nn.Conv2d(6, 6, 5, padding=2))
    replace_narrow_layers(strided, kernels)
    assert [type(module) for module in strided] == [nn.Conv2d, NarrowSubsample, nn.Conv2d]
    replace_narrow_layers(strided, None)
    assert NarrowScaledTanh not in {type(module) for module in strided}
