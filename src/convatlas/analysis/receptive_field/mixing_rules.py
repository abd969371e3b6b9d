"""Receptive fields through operators that combine elements: reductions, norms, products, attention."""

from collections.abc import Collection, Iterable, Sequence

from torch import Tensor

from convatlas.analysis.receptive_field.axes import (
    ImageAxes,
    broadcast_axes,
    globalize_axes,
    permute_axes,
    reduce_axes,
    window_axes,
)
from convatlas.analysis.receptive_field.call import OperatorCall
from convatlas.analysis.receptive_field.intervals import Window, sliding_window


def union(inputs: Sequence[tuple[ImageAxes, Sequence[int]]], out_shape: Sequence[int]) -> ImageAxes | None:
    """The axes of an elementwise result; None where no input depends on the image."""
    return broadcast_axes(inputs, out_shape) if inputs else None


def axes_and_shapes(call: OperatorCall, tensors: Iterable[Tensor]) -> list[tuple[ImageAxes, Sequence[int]]]:
    """The tensors that depend on the image."""
    return [(axes, tensor.shape) for tensor in tensors if (axes := call.axes_of(tensor)) is not None]


def remove_dims(axes: ImageAxes, dims: Collection[int]) -> ImageAxes:
    """The axes after these dimensions were removed; an axis in one of them is reduced."""
    return permute_axes(axes, lambda d: None if d in dims else d - sum(removed < d for removed in dims))


def depend_on_everything(call: OperatorCall) -> ImageAxes | None:
    """Every output unit depends on all units of all inputs."""
    inputs = axes_and_shapes(call, call.tensors())
    return union([(reduce_axes(axes, range(len(shape))), ()) for axes, shape in inputs], ())


def elementwise(call: OperatorCall) -> ImageAxes | None:
    return union(axes_and_shapes(call, call.tensors()), call.result.shape)


def gated(call: OperatorCall) -> ImageAxes | None:
    """glu: unit i of a dimension reads the units i and i + size / 2; the dimension is halved."""
    if call.source_axes is None:
        return None
    dim = call.get("dim", -1) % call.source.dim()
    half = call.result.shape[dim]
    window = Window((range(0, half + 1, half),), 1)
    return window_axes(call.source_axes, call.source.shape, call.result.shape, {dim: window})


def depend_on_nothing(call: OperatorCall) -> None:
    return None


def keep_axes(call: OperatorCall) -> ImageAxes | None:
    return call.source_axes


# Many units into one


def reduction(call: OperatorCall) -> ImageAxes | None:
    if call.source_axes is None:
        return None
    dims = call.dims()
    shape = call.source.shape
    out_shape = [1 if d in dims else size for d, size in enumerate(shape)]
    windows = {d: sliding_window(shape[d], shape[d]) for d in dims}
    axes = window_axes(call.source_axes, shape, out_shape, windows)
    return axes if call.get("keepdim", False) else remove_dims(axes, dims)


def along_dim(call: OperatorCall) -> ImageAxes | None:
    """softmax and similar: every unit of a dimension reads all of the dimension."""
    return call.source_axes and globalize_axes(call.source_axes, call.dims())


def batch_norm(call: OperatorCall) -> ImageAxes | None:
    uses_batch_statistics = call.get("training", "running_mean" not in call.arguments)
    if call.source_axes is None or not uses_batch_statistics:
        return call.source_axes
    return globalize_axes(call.source_axes, range(2, call.source.dim()))


def layer_norm(call: OperatorCall) -> ImageAxes | None:
    num_dims = call.source.dim()
    dims = range(num_dims - len(call["normalized_shape"]), num_dims)
    return call.source_axes and globalize_axes(call.source_axes, dims)


def group_norm(call: OperatorCall) -> ImageAxes | None:
    return call.source_axes and globalize_axes(call.source_axes, range(1, call.source.dim()))


def matmul(call: OperatorCall) -> ImageAxes | None:
    """A matrix product sums over the last dimension of the left and the last but one of the right factor."""
    if "mat1" in call.arguments:
        left, right = call["mat1"], call["mat2"]
    elif "batch1" in call.arguments:
        left, right = call["batch1"], call["batch2"]
    else:
        left, right = call["self"], call["mat2"]
    out_shape = call.result.shape
    inputs = []
    for factor, summed_dim in ((left, left.dim() - 1), (right, right.dim() - 2)):
        axes = call.axes_of(factor)
        if axes is not None:
            inputs.append((reduce_axes(axes, {summed_dim}), out_shape))
    return union(inputs, out_shape)


def linear(call: OperatorCall) -> ImageAxes | None:
    return call.source_axes and reduce_axes(call.source_axes, {call.source.dim() - 1})


def attention(call: OperatorCall) -> ImageAxes | None:
    """Every query reads all keys and values."""
    out_shape = call.result.shape
    inputs = []
    for name in ("query", "key", "value"):
        axes = call.axes_of(call[name])
        if axes is not None:
            num_dims = call[name].dim()
            dims = {num_dims - 1} if name == "query" else {num_dims - 2, num_dims - 1}
            inputs.append((reduce_axes(axes, dims), out_shape))
    return union(inputs, out_shape)


def copy(call: OperatorCall) -> ImageAxes | None:
    axes = call.axes_of(call["src"])
    return axes and broadcast_axes([(axes, call["src"].shape)], call["self"].shape)
