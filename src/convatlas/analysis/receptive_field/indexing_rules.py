"""Receptive fields through operators that move elements: views, slices, concatenation, indexing."""

from collections.abc import Sequence

from convatlas.analysis.receptive_field.axes import (
    Axis,
    ImageAxes,
    broadcast_axes,
    permute_axes,
    reshape_axes,
    window_axes,
)
from convatlas.analysis.receptive_field.call import OperatorCall
from convatlas.analysis.receptive_field.intervals import sliding_window
from convatlas.analysis.receptive_field.mixing_rules import depend_on_everything, remove_dims, union

# The same elements at other positions


def view(call: OperatorCall) -> ImageAxes | None:
    return call.source_axes and reshape_axes(call.source_axes, call.source.shape, call.result.shape)


def as_strided(call: OperatorCall) -> ImageAxes | None:
    """The same shape at offset 0 only changes the strides of dimensions of size 1.

    Adaptive pooling does that to keep its result in channels-last order.
    """
    same_elements = call.get("storage_offset", 0) == 0 and list(call["size"]) == list(call.source.shape)
    return call.source_axes if same_elements else depend_on_everything(call)


def permute(call: OperatorCall) -> ImageAxes | None:
    num_dims = call.source.dim()
    order = [d % num_dims for d in call["dims"]]
    return call.source_axes and permute_axes(call.source_axes, order.index)


def transpose(call: OperatorCall) -> ImageAxes | None:
    num_dims = call.source.dim()
    a, b = call.get("dim0", 0) % num_dims, call.get("dim1", 1) % num_dims  # aten::t has neither argument
    return call.source_axes and permute_axes(call.source_axes, lambda d: b if d == a else a if d == b else d)


def unsqueeze(call: OperatorCall) -> ImageAxes | None:
    dim = call["dim"] % call.result.dim()
    return call.source_axes and permute_axes(call.source_axes, lambda d: d + (d >= dim))


def squeeze(call: OperatorCall) -> ImageAxes | None:
    shape = call.source.shape
    removed = {d for d in call.dims() if shape[d] == 1}
    return call.source_axes and remove_dims(call.source_axes, removed)


def expand(call: OperatorCall) -> ImageAxes | None:
    axes = call.source_axes
    return axes and broadcast_axes([(axes, call.source.shape)], call.result.shape)


# Some of the elements


def _slice_axes(
    axes: ImageAxes, shape: Sequence[int], dim: int, start: int, size: int, step: int = 1
) -> ImageAxes:
    """The axes of `size` indices of one dimension: start, start + step, ..."""
    out_shape = [size if d == dim else old_size for d, old_size in enumerate(shape)]
    return window_axes(axes, shape, out_shape, {dim: sliding_window(1, step, -start)})


def slicing(call: OperatorCall) -> ImageAxes | None:
    shape = call.source.shape
    dim = call.get("dim", 0) % len(shape)
    start = call.get("start", 0)
    start = min(max(start + shape[dim] if start < 0 else start, 0), shape[dim])
    size, step = call.result.shape[dim], call.get("step", 1)
    return call.source_axes and _slice_axes(call.source_axes, shape, dim, start, size, step)


def select(call: OperatorCall) -> ImageAxes | None:
    if call.source_axes is None:
        return None
    shape = call.source.shape
    dim = call["dim"] % len(shape)
    axes = _slice_axes(call.source_axes, shape, dim, call["index"] % shape[dim], 1)
    return remove_dims(axes, {dim})


def splitting(call: OperatorCall) -> list[ImageAxes] | None:
    if call.source_axes is None:
        return None
    shape = call.source.shape
    dim = call.get("dim", 0) % len(shape)
    start = 0
    chunks = []
    for chunk in call.output:
        size = chunk.shape[dim]
        chunks.append(_slice_axes(call.source_axes, shape, dim, start, size))
        start += size
    return chunks


def unbind(call: OperatorCall) -> list[ImageAxes] | None:
    if not call.source_axes:
        return None
    shape = call.source.shape
    dim = call.get("dim", 0) % len(shape)
    slices = [_slice_axes(call.source_axes, shape, dim, i, 1) for i in range(len(call.output))]
    return [remove_dims(axes, {dim}) for axes in slices] or None


# Several tensors into one


def concatenation(call: OperatorCall) -> ImageAxes | None:
    out_shape = call.result.shape
    dim = call.get("dim", 0) % len(out_shape)
    inputs = []
    for tensor in call["tensors"]:
        if tensor.dim() != len(out_shape):  # cat ignores legacy empty tensors, of shape (0,)
            continue
        axes = call.axes_of(tensor)
        if axes is not None:
            inputs.append((_spread_over_dim(axes, dim, out_shape[dim]), out_shape))
    return union(inputs, out_shape)


def stack(call: OperatorCall) -> ImageAxes | None:
    out_shape = call.result.shape
    dim = call.get("dim", 0) % len(out_shape)
    inputs = []
    for tensor in call["tensors"]:
        axes = call.axes_of(tensor)
        if axes is not None:
            inputs.append((permute_axes(axes, lambda d: d + (d >= dim)), out_shape))
    return union(inputs, out_shape)


# Elements at computed positions


def _spread_over_dim(axes: ImageAxes, dim: int, size: int) -> ImageAxes:
    """An axis in `dim` grows to `size`, or its units change places.

    Each unit is treated as depending on all units of that axis.
    """
    return tuple(Axis(axis.to_global().field, dim, size) if axis.dim == dim else axis for axis in axes)


def indexing(call: OperatorCall) -> ImageAxes | None:
    """index: a one-dimensional index into one dimension leaves all other dimensions in place."""
    if call.source_axes is None:
        return None
    dims = [d for d, index in enumerate(call["indices"]) if index is not None]
    if len(dims) == 1 and call["indices"][dims[0]].dim() == 1:
        return _spread_over_dim(call.source_axes, dims[0], call.result.shape[dims[0]])
    return depend_on_everything(call)


def index_select(call: OperatorCall) -> ImageAxes | None:
    dim = call["dim"] % call.source.dim()
    return call.source_axes and _spread_over_dim(call.source_axes, dim, call.result.shape[dim])


def rearranged(call: OperatorCall) -> ImageAxes | None:
    """roll, flip, sampling at computed positions: any unit of the map can come from any other."""
    axes = call.source_axes
    for dim in range(call.source.dim()):
        axes = axes and _spread_over_dim(axes, dim, call.result.shape[dim])
    return axes
