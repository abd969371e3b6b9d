"""Batch norm, the addition and the ReLU that follow it in one pass over memory, for training on a CPU.

Where each of the three reads and writes whole activations, they take a third of a step's time. A
`FusedBatchNorm2d` in training mode computes its statistics and returns a `PendingNorm`; the next function
decides which single pass writes the output. Networks need not know; state dict and evaluation are those of
nn.BatchNorm2d.

The floor, in passes over an activation: forward reads x twice and writes y, backward reads x and the gradient
twice and writes one; a residual adds one to forward and three to backward.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from convatlas.errors import UserError
from convatlas.layers.kernels import Kernels, load_kernels
from convatlas.layers.narrow_conv import check_narrow_layers, has_narrow_layers

_NO_RELU, _SIGN_FROM_INPUT, _SIGN_FROM_OUTPUT = range(3)  # `Relu` in batch_norm.cpp


class FusedBatchNorm2d(nn.BatchNorm2d):
    """nn.BatchNorm2d for images (n, c, h, w) in channels-last format on a CPU; other images are normalised by
    torch. `fuse_batch_norm` makes one of a batch norm."""

    kernels: Kernels

    def forward(self, input: Tensor) -> Tensor:
        x = _materialized(input)
        if not (self.training and self._is_supported(x)):
            return super().forward(x)
        momentum = self.momentum
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            momentum = 1 / float(self.num_batches_tracked) if momentum is None else momentum
        with torch.no_grad():
            mean, inverse_std = torch.empty_like(self.bias), torch.empty_like(self.bias)
            self.kernels.statistics(
                x, self.eps, momentum or 0.0, self.running_mean, self.running_var, mean, inverse_std
            )
        pending = PendingNorm(self.kernels, (x, self.weight, self.bias, mean, inverse_std))
        return pending  # type: ignore[return-value]

    def _is_supported(self, x: Tensor) -> bool:
        dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
        return (
            x.device.type == "cpu"
            and x.dtype in Kernels.SUFFIXES
            and x.dim() == 4
            and x.numel() > x.shape[1]  # one value a channel is torch's error
            and x.is_contiguous(memory_format=torch.channels_last)
            and self.affine
            and self.weight.dtype == dtype
        )


def fuse_batch_norm(model: nn.Module, kernels: Kernels | None) -> None:
    """Make every nn.BatchNorm2d in `model` a fused one, in place, if there are kernels: what refers to it,
    such as a list of frozen modules, still does."""
    if kernels is None:
        return
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = FusedBatchNorm2d
            module.kernels = kernels  # type: ignore[assignment]


def choose_kernels(
    model: nn.Module,
    device: torch.device,
    warn: Callable[[str], None] = lambda line: None,
    say: Callable[[str], None] = lambda line: None,
) -> Kernels | None:
    """The kernels for a training of `model` on a CPU, with batch norms or of LeNet-5; None where it has no
    use for them, or where they cannot be compiled: `warn` is called with the reason. `say` is called before a
    compiler runs."""
    has_batch_norm = any(type(module) is nn.BatchNorm2d for module in model.modules())
    if device.type != "cpu" or not (has_batch_norm or has_narrow_layers(model)):
        return None
    try:
        kernels = load_kernels(say)
        _check_kernels(kernels)
        check_narrow_layers(kernels)
    except UserError as error:
        warn(f"training takes longer, with the kernels of torch: {error}")
        return None
    return kernels


def _check_kernels(kernels: Kernels) -> None:
    """Compare a small batch norm with torch's. Raises UserError."""
    generator = torch.Generator().manual_seed(0)
    x, residual, gradient = (
        torch.randn(4, 24, 5, 7, generator=generator).contiguous(memory_format=torch.channels_last)
        for _ in range(3)
    )
    results = []
    for fused in (False, True):
        norm = nn.BatchNorm2d(24)
        fuse_batch_norm(norm, kernels if fused else None)
        inputs = [x.clone().requires_grad_(), residual.clone().requires_grad_()]
        y = F.relu(norm(inputs[0]) + inputs[1])
        results.append([y, *torch.autograd.grad(y, [*inputs, norm.weight, norm.bias], gradient)])
    if not all(torch.allclose(a, b, atol=1e-4) for a, b in zip(*results, strict=True)):
        raise UserError(f"what {kernels.compiler} has compiled computes other values than torch")


class PendingNorm:
    """A batch norm's output, to which a residual may have been added, before it is written: ReLU and addition
    take it as it is, every other function gets the tensor."""

    def __init__(self, kernels: Kernels, inputs: tuple[Tensor, ...], residual: Tensor | None = None):
        self._kernels = kernels
        self._inputs = inputs  # x, weight, bias, mean, inverse_std
        self._residual = residual
        self._versions = self._current_versions()
        self._tensor: Tensor | None = None

    def tensor(self) -> Tensor:
        if self._tensor is None:
            self._tensor = self._write(relu=False)
        return self._tensor

    def relu(self, inplace: bool = False) -> Tensor:
        if self._tensor is not None:
            return F.relu(self._tensor, inplace)
        output = self._write(relu=True)
        if inplace:
            self._tensor = output
        return output

    def relu_(self) -> Tensor:
        return self.relu(inplace=True)

    def add(self, other: Any) -> "PendingNorm | Tensor":
        x = self._inputs[0]
        residual: Any = _materialized(other)
        fits = (
            isinstance(residual, Tensor)
            and (residual.shape, residual.dtype, residual.device) == (x.shape, x.dtype, x.device)
            and residual.is_contiguous(memory_format=torch.channels_last)
        )
        if self._tensor is None and self._residual is None and fits:
            return PendingNorm(self._kernels, self._inputs, residual)
        total: Tensor = self.tensor() + residual
        return total

    def _current_versions(self) -> list[int]:
        return [t._version for t in (self._inputs[0], self._residual) if t is not None]

    def _write(self, relu: bool) -> Tensor:
        if self._current_versions() != self._versions:
            raise RuntimeError(
                "the input of a batch norm, or what is added to its output, was changed in place before the "
                "sum or its ReLU was used: change a copy of it"
            )
        y: Tensor = _NormalizeAddRelu.apply(  # type: ignore[no-untyped-call]
            *self._inputs, self._residual, self._kernels, relu
        )
        return y

    def __add__(self, other: Any) -> "PendingNorm | Tensor":
        return self.add(other)

    __radd__ = __add__

    def __getattr__(self, name: str) -> Any:
        """Attributes and methods of the tensor; those of its shape and kind do not write it."""
        if name in ("shape", "dtype", "device", "ndim", "size", "dim", "numel"):
            return getattr(self._inputs[0], name)
        return getattr(self.tensor(), name)

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        first, second = (*args, None, None)[:2]
        if func in (F.relu, torch.relu, torch.relu_) and isinstance(first, PendingNorm):
            inplace = func is torch.relu_ or bool((kwargs or {}).get("inplace", second))
            return first.relu(inplace)
        if func in _ADDITIONS and len(args) == 2 and not kwargs:
            return second.add(first) if isinstance(second, PendingNorm) else first.add(second)
        return func(
            *(_materialized(arg) for arg in args), **{k: _materialized(v) for k, v in (kwargs or {}).items()}
        )


def _operator(name: str) -> Callable[..., Any]:
    """An operator that Python looks up in the class, not in `__getattr__`."""

    def apply(self: PendingNorm, *operands: Any) -> Any:
        return getattr(self.tensor(), name)(*map(_materialized, operands))

    return apply


_OPERATORS = "getitem len iter neg abs sub rsub mul rmul truediv rtruediv pow matmul lt le gt ge"
for _name in _OPERATORS.split():
    setattr(PendingNorm, f"__{_name}__", _operator(f"__{_name}__"))

_ADDITIONS = (torch.add, Tensor.add, Tensor.__add__, Tensor.__radd__)


def _materialized(value: Any) -> Any:
    """`value`, with tensors in place of pending norms, also in lists and tuples."""
    if isinstance(value, PendingNorm):
        return value.tensor()
    if type(value) in (list, tuple):
        return type(value)(_materialized(item) for item in value)
    return value


class _NormalizeAddRelu(torch.autograd.Function):
    """relu((x - mean) * inverse_std * weight + bias + residual), with the gradients of batch norm."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        mean: Tensor,
        inverse_std: Tensor,
        residual: Tensor | None,
        kernels: Kernels,
        relu: bool,
    ) -> Tensor:
        y = torch.empty_like(x)
        kernels.forward(x, residual, y, weight, bias, mean, inverse_std, relu)
        ctx.kernels = kernels
        ctx.relu = (_SIGN_FROM_INPUT if residual is None else _SIGN_FROM_OUTPUT) if relu else _NO_RELU
        ctx.has_residual = residual is not None
        output = y if ctx.relu == _SIGN_FROM_OUTPUT else None
        ctx.save_for_backward(x, weight, bias, mean, inverse_std, output)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, mean, inverse_std, output = ctx.saved_tensors
        gradient = gradient.to(x.dtype).contiguous(memory_format=torch.channels_last)
        dx, dweight, dbias = torch.empty_like(x), torch.empty_like(weight), torch.empty_like(bias)
        masked = torch.empty_like(x) if ctx.relu == _SIGN_FROM_OUTPUT else None
        ctx.kernels.backward(
            gradient, x, output, masked, dx, weight, bias, mean, inverse_std, dweight, dbias, ctx.relu
        )
        dresidual = (gradient if masked is None else masked) if ctx.has_residual else None
        return dx, dweight, dbias, None, None, dresidual, None, None
