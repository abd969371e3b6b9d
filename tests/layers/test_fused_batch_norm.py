"""Fused batch norm against torch's, in float64: every network of the registry trains the same."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convatlas import edits, models
from convatlas.layers.fused_batch_norm import (
    FusedBatchNorm2d,
    PendingNorm,
    choose_kernels,
    fuse_batch_norm,
)
from convatlas.layers.kernels import Kernels
from convatlas.models.edits import Edit


@pytest.fixture(scope="module")
def kernels() -> Kernels:
    kernels = choose_kernels(nn.BatchNorm2d(1), torch.device("cpu"))
    assert kernels is not None
    return kernels


def channels_last(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape).to(dtype).contiguous(memory_format=torch.channels_last)


def random_norm(channels: int, **options: Any) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels, **options).double()
    nn.init.uniform_(norm.weight, -1, 1)
    nn.init.uniform_(norm.bias, -1, 1)
    return norm


def fused(norm: nn.BatchNorm2d, kernels: Kernels) -> nn.BatchNorm2d:
    """A fused copy of `norm`."""
    norm = copy.deepcopy(norm)
    fuse_batch_norm(norm, kernels)
    assert type(norm) is FusedBatchNorm2d
    return norm


Function = Callable[[nn.Module, Tensor, Tensor], Tensor]


def relu_of_sum(norm: nn.Module, x: Tensor, residual: Tensor) -> Tensor:
    return F.relu(norm(x) + residual, inplace=True)


def relu_of_sum_from_the_right(norm: nn.Module, x: Tensor, residual: Tensor) -> Tensor:
    return torch.relu(residual + norm(x))


def sum_assigned(norm: nn.Module, x: Tensor, residual: Tensor) -> Tensor:
    y = norm(x)
    y += residual
    return torch.relu_(y)


def sum_without_relu(norm: nn.Module, x: Tensor, residual: Tensor) -> Tensor:
    y = norm(x) + residual
    return torch.add(y * y.mean(), F.relu(y))


def used_twice(norm: nn.Module, x: Tensor, residual: Tensor) -> Tensor:
    y = norm(x)
    return F.relu(y) * 2 + F.sigmoid(y) * residual


def changed_in_place(norm: nn.Module, x: Tensor, residual: Tensor) -> Tensor:
    y = norm(x)
    F.relu(y, inplace=True)
    return torch.sub(y, residual)


def concatenated(norm: nn.Module, x: Tensor, residual: Tensor) -> Tensor:
    return torch.cat([norm(x), residual], dim=1)[:, 1:, ::2]


def added_to_itself(norm: nn.Module, x: Tensor, residual: Tensor) -> Tensor:
    y = norm(x)
    return F.relu(y + y) + residual


def broadcast(norm: nn.Module, x: Tensor, residual: Tensor) -> Tensor:
    return F.relu(norm(x) + residual.mean((2, 3), keepdim=True))


def norm_of_norm(norm: nn.Module, x: Tensor, residual: Tensor) -> Tensor:
    y: Tensor = F.relu(norm(norm(x) + residual))
    return y


@pytest.mark.parametrize(
    "function",
    [
        relu_of_sum,
        relu_of_sum_from_the_right,
        sum_assigned,
        sum_without_relu,
        used_twice,
        changed_in_place,
        concatenated,
        added_to_itself,
        broadcast,
        norm_of_norm,
    ],
)
@pytest.mark.parametrize("momentum", [0.1, None])
def test_every_use_of_the_output_has_the_gradients_of_torch(
    kernels: Kernels, function: Function, momentum: float | None
) -> None:
    torch.manual_seed(0)
    norm = random_norm(24, momentum=momentum)
    x, residual = channels_last(6, 24, 33, 41) * 3 + 50, channels_last(6, 24, 33, 41)
    results = []
    for module in (norm, fused(norm, kernels)):
        inputs = [x.clone().requires_grad_(), residual.clone().requires_grad_()]
        for _ in range(2):
            y = function(module, *inputs)
        weights = torch.linspace(-1, 1, y.numel(), dtype=torch.float64).view(y.shape)
        gradients = torch.autograd.grad((y * weights).sum(), [*inputs, *module.parameters()])
        results.append([y, *gradients, *module.buffers()])
    for expected, actual in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("channels", [1, 3, 4, 16, 31, 33])
@pytest.mark.parametrize("size", [(3, 5), (4, 10), (16, 32)])
def test_few_channels_share_a_row_of_pixels(kernels: Kernels, channels: int, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    norm = random_norm(channels)
    x, residual = channels_last(3, channels, *size) * 3 + 50, channels_last(3, channels, *size)
    results = []
    for module in (norm, fused(norm, kernels)):
        inputs = [x.clone().requires_grad_(), residual.clone().requires_grad_()]
        y = relu_of_sum(module, F.relu(module(inputs[0])), inputs[1])
        gradients = torch.autograd.grad(y.square().sum(), [*inputs, *module.parameters()])
        results.append([y, *gradients, *module.buffers()])
    for expected, actual in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "shape", [(2, 1, 1, 1), (3, 5, 7, 2), (8, 2048, 3, 3), (2, 16, 90, 80), (128, 4, 32, 32)]
)
def test_values_are_rounded_once(kernels: Kernels, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """Against float64 on the same values: half a unit in the last place, and what float32 rounds."""
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(shape[1])
    x, residual = channels_last(*shape, dtype=dtype), channels_last(*shape, dtype=dtype)
    expected = F.relu(copy.deepcopy(norm).double()(x.double()) + residual.double())
    actual = F.relu(fused(norm, kernels)(x) + residual)
    assert actual.dtype == dtype
    ulp = torch.finfo(dtype).eps
    torch.testing.assert_close(actual.double(), expected, rtol=ulp / 2 + 1e-5, atol=1e-5)


def test_the_bits_do_not_depend_on_the_number_of_threads(kernels: Kernels) -> None:
    torch.manual_seed(0)
    x, weights = channels_last(8, 40, 31, 29, dtype=torch.float32), channels_last(8, 40, 31, 29)
    threads = torch.get_num_threads()
    results = []
    for number in (1, 2, 3):
        torch.set_num_threads(number)
        norm = fused(nn.BatchNorm2d(40), kernels)
        a = x.clone().requires_grad_()
        y = F.relu(norm(a))
        torch.autograd.backward((y * weights).sum())
        results.append([y, a.grad, norm.weight.grad, norm.bias.grad, norm.running_var])
    torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(p, q) for p, q in zip(results[0], other, strict=True))  # type: ignore[arg-type]


def test_a_value_that_is_not_finite_stays_so(kernels: Kernels) -> None:
    for value in (float("nan"), float("inf")):
        x = channels_last(2, 3, 4, 4, dtype=torch.float32)
        x[0, 1, 2, 3] = value
        y = F.relu(fused(nn.BatchNorm2d(3), kernels)(x))
        assert not y[:, 1].isfinite().any()
        assert y[:, 0].isfinite().all()


@pytest.mark.parametrize(
    "x",
    [
        torch.randn(2, 3, 4, 4),  # not channels-last
        torch.randn(2, 3, 4, 4).half().contiguous(memory_format=torch.channels_last),
    ],
    ids=["channels first", "float16"],
)
def test_images_without_a_kernel_are_normalized_by_torch(kernels: Kernels, x: Tensor) -> None:
    norm = fused(nn.BatchNorm2d(3), kernels)
    y = norm(x)
    assert type(y) is Tensor
    torch.testing.assert_close(y, nn.BatchNorm2d(3)(x))


def test_one_value_a_channel_is_the_error_of_torch(kernels: Kernels) -> None:
    norm = fused(nn.BatchNorm2d(3), kernels)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        norm(channels_last(1, 3, 1, 1, dtype=torch.float32))


def test_evaluation_is_that_of_torch(kernels: Kernels) -> None:
    norm = nn.BatchNorm2d(3)
    x = channels_last(2, 3, 4, 4, dtype=torch.float32)
    norm(x)
    assert torch.equal(fused(norm, kernels).eval()(x), norm.eval()(x))


@pytest.mark.parametrize("changed", [0, 1], ids=["input", "residual"])
def test_what_is_changed_before_it_is_used_is_an_error(kernels: Kernels, changed: int) -> None:
    tensors = [channels_last(2, 3, 4, 5, dtype=torch.float32) for _ in range(2)]
    y = fused(nn.BatchNorm2d(3), kernels)(tensors[0]) + tensors[1]
    tensors[changed].add_(1)
    with pytest.raises(RuntimeError, match="changed in place"):
        F.relu(y)


def test_shapes_are_known_without_writing_the_output(kernels: Kernels) -> None:
    x = channels_last(2, 3, 4, 5, dtype=torch.float32)
    pending = fused(nn.BatchNorm2d(3), kernels)(x)
    assert isinstance(pending, PendingNorm)
    assert (pending.shape, pending.size(3), pending.dtype) == (x.shape, 5, torch.float32)
    assert pending._tensor is None


# one of each form: nested and flat sequences, shortcuts of every kind, branches, squeeze-excite, shuffling
NETWORKS = [
    "resnet18",
    "resnet50",
    "resnet20_cifar",
    "plain20_cifar",
    "resnetv2_110_cifar",
    "vgg11_bn",
    "bn_inception",
    "inception_v3",
    "xception",
    "mobilenet_v1",
    "shufflenet_v2",
    "se_resnet50",
]


# an activation, a normalisation or another layer in place of the one that the fused pass knows
EDITED: list[list[Edit]] = [
    [edits.SwapActivation(to="elu")],
    [edits.SwapActivation(to="prelu"), edits.NormAfterActivation()],
    [edits.SwapPooling(to="stride"), edits.LinearAfter(path="conv2_x.0.function.conv1.norm")],
]


@pytest.mark.parametrize(
    ("name", "changes"), [*((name, []) for name in NETWORKS), *(("resnet18", changes) for changes in EDITED)]
)
def test_a_network_trains_as_with_torch(kernels: Kernels, name: str, changes: list[Edit]) -> None:
    torch.manual_seed(0)
    arguments: dict[str, Any] = {} if "shufflenet" in name else {"width": 0.125}
    if name == "vgg11_bn":
        arguments["image_size"] = 80
    model: nn.Module = models.create_model(name, num_classes=7, edits=changes, **arguments).double().train()
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    fused_model = copy.deepcopy(model)
    fuse_batch_norm(fused_model, kernels)
    assert fused_model.state_dict().keys() == model.state_dict().keys()
    images = channels_last(4, 3, 32, 32) if "cifar" in name else channels_last(4, 3, 80, 80)
    results = []
    for network in (model, fused_model):
        torch.manual_seed(1)  # dropout
        logits = network(images)
        (logits * torch.arange(7)).sum().backward()
        gradients = [p.grad for p in network.parameters() if p.grad is not None]
        results.append([logits.detach(), *gradients, *network.buffers()])
    for expected, actual in zip(*results, strict=True):
        scale = max(1.0, float(expected.abs().max()))
        torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10 * scale)
