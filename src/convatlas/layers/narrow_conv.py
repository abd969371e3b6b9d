"""LeNet-5's layers as they train fastest on a CPU: its few maps fill no vector, its many images do.

The maps are tensors (n, c, h, w) whose images are the innermost in memory. Subsampling, and everything else
that works on one pixel, keeps that format and is vectorised over images by torch; convolutions are our
kernels, which compute the printed connections alone. State dict and evaluation are those of the plain layers.
"""

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from convatlas.errors import UserError
from convatlas.layers.kernels import KERNEL_SIZE, Kernels
from convatlas.layers.lenet import (
    AMPLITUDE,
    SLOPE,
    PartialConv2d,
    ScaledTanh,
    Subsample,
    at_least_float32,
)

MIN_IMAGES = 16  # a kernel's vector holds up to 16
MAX_MAPS = 32  # from which on torch's convolutions are faster


class NarrowConv2d(nn.Conv2d):
    """nn.Conv2d with a kernel that covers its input, or of 5x5 without padding or stride."""

    kernels: Kernels

    def forward(self, input: Tensor) -> Tensor:
        covers_input = input.shape[2:] == self.weight.shape[2:]
        if not (self.training and len(input) >= MIN_IMAGES and (covers_input or _has_narrow_kernels(self))):
            return super().forward(input)
        if covers_input:
            return F.linear(input.flatten(1), self.weight.flatten(1), self.bias)[:, :, None, None]
        maps = torch.cartesian_prod(torch.arange(self.out_channels), torch.arange(self.in_channels))
        return _convolve(input, self.weight.flatten(0, 1), self.bias, maps, self.kernels)


class NarrowPartialConv2d(PartialConv2d):
    kernels: Kernels

    def forward(self, x: Tensor) -> Tensor:
        if not (self.training and len(x) >= MIN_IMAGES):
            return super().forward(x)
        maps = torch.stack([self.output_map, self.input_map], dim=1)
        return _convolve(x, self.weight, self.bias, maps, self.kernels)


class NarrowSubsample(Subsample):
    def forward(self, x: Tensor) -> Tensor:
        if not (self.training and len(x) >= MIN_IMAGES):
            return super().forward(x)
        # for torch's pooling the images are channels, in channels-last format
        return F.avg_pool2d(x.transpose(0, 1), 2).transpose(0, 1) * (4 * self.coefficient) + self.bias


class NarrowScaledTanh(ScaledTanh):
    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        y: Tensor = _ScaledTanh.apply(x)  # type: ignore[no-untyped-call]
        return y


def has_narrow_layers(model: nn.Module) -> bool:
    """Whether `model` is a LeNet-5, or contains one."""
    return any(type(module) is Subsample for module in model.modules())


def replace_narrow_layers(model: nn.Module, kernels: Kernels | None) -> None:
    """Give a LeNet-5 the layers of this file, in place, if there are kernels."""
    if kernels is None or not has_narrow_layers(model):
        return
    for module in model.modules():
        if type(module) is Subsample:
            module.__class__ = NarrowSubsample
        elif type(module) is ScaledTanh:
            module.__class__ = NarrowScaledTanh
        elif type(module) is PartialConv2d and module.shape[2:] == KERNEL_SIZE:
            module.__class__ = NarrowPartialConv2d
            module.kernels = kernels  # type: ignore[assignment]
        elif type(module) is nn.Conv2d and _is_plain(module):
            module.__class__ = NarrowConv2d
            module.kernels = kernels  # type: ignore[assignment]
            # in the format of its gradient, as DistributedDataParallel expects; clone, since a weight of one
            # input channel counts as contiguous in every format
            module.weight.data = module.weight.data.clone(memory_format=torch.contiguous_format)


def check_narrow_layers(kernels: Kernels) -> None:
    """Compare a small convolution with torch's. Raises UserError."""
    generator = torch.Generator().manual_seed(0)
    results = []
    x = torch.randn(17, 2, 8, 17, generator=generator)
    gradient = torch.randn(17, 3, 4, 13, generator=generator)
    conv = nn.Conv2d(2, 3, KERNEL_SIZE)
    for model in (conv, nn.Sequential(copy.deepcopy(conv), Subsample(1))):
        replace_narrow_layers(model, kernels)
        layer = next(module for module in model.modules() if isinstance(module, nn.Conv2d))
        inputs = x.clone().requires_grad_()
        y = layer(inputs)
        results.append([y, *torch.autograd.grad(y, [inputs, *layer.parameters()], gradient)])
    if not all(torch.allclose(a, b, atol=1e-3) for a, b in zip(*results, strict=True)):
        raise UserError(f"what {kernels.compiler} has compiled computes other values than torch")


def _is_plain(conv: nn.Conv2d) -> bool:
    return (conv.stride, conv.padding, conv.dilation, conv.groups) == ((1, 1), (0, 0), (1, 1), 1)


def _has_narrow_kernels(conv: nn.Conv2d) -> bool:
    return conv.kernel_size == KERNEL_SIZE and max(conv.in_channels, conv.out_channels) <= MAX_MAPS


class _ScaledTanh(torch.autograd.Function):
    """ScaledTanh that keeps its output alone, which the next layer keeps too: f' = S / A (A^2 - f^2)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = (2 * SLOPE * x).sigmoid_().mul_(2 * AMPLITUDE).sub_(AMPLITUDE)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        at_zero = y.new_tensor(AMPLITUDE * SLOPE)
        return torch.addcmul(at_zero, y, y, value=-SLOPE / AMPLITUDE).mul_(dy)


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, maps: Tensor, kernels: Kernels) -> Tensor:
        x = _images_innermost(x)
        height, width = x.shape[2:]
        y = _empty_maps(x, len(bias), height - KERNEL_SIZE[0] + 1, width - KERNEL_SIZE[1] + 1)
        kernels.convolve(x, weight, bias, maps, y, margin=0)
        ctx.save_for_backward(x, weight, bias, maps)
        ctx.kernels = kernels
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, maps = ctx.saved_tensors
        dy = _images_innermost(dy)
        dx = None
        if ctx.needs_input_grad[0]:
            dx = _empty_maps(x, *x.shape[1:])
            order = torch.argsort(maps[:, 1], stable=True)
            turned = weight[order].flip(1, 2).contiguous()
            # a convolution of the gradient, with its maps as inputs
            back = maps[order].flip(1).contiguous()
            ctx.kernels.convolve(dy, turned, None, back, dx, margin=KERNEL_SIZE[0] - 1)
        dweight, dbias = torch.empty_like(weight), torch.empty_like(bias)
        ctx.kernels.weight_gradient(dy, x, dweight, dbias, maps)
        return dx, dweight, dbias, None, None


def _convolve(x: Tensor, weight: Tensor, bias: Tensor | None, maps: Tensor, kernels: Kernels) -> Tensor:
    """`weight` (connections, 5, 5), `maps` (connections, 2): the output and the input map of each."""
    x = at_least_float32(x)
    bias = weight.new_zeros(int(maps[-1, 0]) + 1) if bias is None else bias
    y: Tensor = _Convolution.apply(  # type: ignore[no-untyped-call]
        x, weight.to(x.dtype).contiguous(), bias.to(x.dtype), maps, kernels
    )
    return y


def _images_innermost(x: Tensor) -> Tensor:
    # torch transposes fast with two dimensions only
    return x.flatten(1).t().contiguous().view(*x.shape[1:], len(x)).permute(3, 0, 1, 2)


def _empty_maps(x: Tensor, channels: int, height: int, width: int) -> Tensor:
    return x.new_empty(channels, height, width, len(x)).permute(3, 0, 1, 2)
