"""Receptive fields through operators that move elements: views, slices, concatenation, indexing."""

from convatlas.analysis.receptive_field import axes as sights
from convatlas.analysis.receptive_field.axes import Axis, ImageAxes
from convatlas.analysis.receptive_field.call import OperatorCall
from convatlas.analysis.receptive_field.intervals import window
from convatlas.analysis.receptive_field.mixing_rules import everything

# The same elements at other places


def view(call: OperatorCall) -> ImageAxes | None:
    return call.source_axes and sights.reshaped(call.source_axes, call.source.shape, call.result.shape)


def as_strided(call: OperatorCall) -> ImageAxes | None:
    """With the same shape it changes the strides of sides of one alone, as adaptive pooling does to keep channels last."""
    same_places = call.get("storage_offset", 0) == 0 and list(call["size"]) == list(call.source.shape)
    return call.source_axes if same_places else everything(call)


def permute(call: OperatorCall) -> ImageAxes | None:
    n = call.source.dim()
    order = [d % n for d in call["dims"]]
    return call.source_axes and sights.permuted(call.source_axes, order.index)


def transpose(call: OperatorCall) -> ImageAxes | None:
    n = call.source.dim()
    a, b = call.get("dim0", 0) % n, call.get("dim1", 1) % n  # aten::t has neither
    return call.source_axes and sights.permuted(call.source_axes, lambda d: b if d == a else a if d == b else d)


def unsqueeze(call: OperatorCall) -> ImageAxes | None:
    dim = call["dim"] % call.result.dim()
    return call.source_axes and sights.permuted(call.source_axes, lambda d: d + (d >= dim))


def squeeze(call: OperatorCall) -> ImageAxes | None:
    shape = call.source.shape
    gone = {d for d in call.dims() if shape[d] == 1}
    return call.source_axes and sights.permuted(call.source_axes, lambda d: None if d in gone else d - sum(g < d for g in gone))


def expand(call: OperatorCall) -> ImageAxes | None:
    return call.source_axes and sights.broadcast([(call.source_axes, call.source.shape)], call.result.shape)


def _part(call: OperatorCall, dim: int, start: int, size: int, step: int = 1) -> ImageAxes | None:
    shape = call.source.shape
    out = [size if d == dim else s for d, s in enumerate(shape)]
    return call.source_axes and sights.windowed(call.source_axes, shape, out, {dim: window(1, step, -start)})


def slicing(call: OperatorCall) -> ImageAxes | None:
    dim = call.get("dim", 0) % call.source.dim()
    size = call.source.shape[dim]
    start = call.get("start", 0)
    start = min(max(start + size if start < 0 else start, 0), size)
    return _part(call, dim, start, call.result.shape[dim], call.get("step", 1))


def select(call: OperatorCall) -> ImageAxes | None:
    dim = call["dim"] % call.source.dim()
    part = _part(call, dim, call["index"] % call.source.shape[dim], 1)
    return part and sights.permuted(part, lambda d: None if d == dim else d - (d > dim))


def splitting(call: OperatorCall) -> list[ImageAxes] | None:
    if call.source_axes is None:
        return None
    dim, start, parts = call.get("dim", 0) % call.source.dim(), 0, []
    for piece in call.out:
        part = _part(call, dim, start, piece.shape[dim])
        assert part is not None
        parts.append(part)
        start += piece.shape[dim]
    return parts


def unbind(call: OperatorCall) -> list[ImageAxes] | None:
    dim = call.get("dim", 0) % call.source.dim()
    parts = [part for i in range(len(call.out)) if (part := _part(call, dim, i, 1))]
    return [sights.permuted(part, lambda d: None if d == dim else d - (d > dim)) for part in parts] or None


def concatenation(call: OperatorCall) -> ImageAxes | None:
    tensors = [t for t in call["tensors"] if t.dim() == call.result.dim()]  # cat skips the empty ones of old
    dim, out = call.get("dim", 0) % call.result.dim(), call.result.shape
    seen = [(_stretched(s, dim, out[dim]), out) for t in tensors if (s := call.axes_of(t)) is not None]
    return sights.broadcast(seen, out) if seen else None


def stack(call: OperatorCall) -> ImageAxes | None:
    dim = call.get("dim", 0) % call.result.dim()
    seen = [
        (sights.permuted(s, lambda d: d + (d >= dim)), call.result.shape) for t in call["tensors"] if (s := call.axes_of(t)) is not None
    ]
    return sights.broadcast(seen, call.result.shape) if seen else None


def _stretched(sight: ImageAxes, dim: int, size: int) -> ImageAxes:
    """Of an axis that grows or whose units change places, each unit is taken to see what all of them see."""
    return tuple(Axis(axis.to_global().field, dim, size) if axis.dim == dim else axis for axis in sight)


def indexing(call: OperatorCall) -> ImageAxes | None:
    """index: one index of one dimension along that dimension keeps all others where they are."""
    seen, used = call.source_axes, [d for d, index in enumerate(call["indices"]) if index is not None]
    if seen is None:
        return None
    if len(used) == 1 and call["indices"][used[0]].dim() == 1:
        return _stretched(seen, used[0], call.result.shape[used[0]])
    return everything(call)


def index_select(call: OperatorCall) -> ImageAxes | None:
    dim = call["dim"] % call.source.dim()
    return call.source_axes and _stretched(call.source_axes, dim, call.result.shape[dim])


def rearranged(call: OperatorCall) -> ImageAxes | None:
    """roll, flip, sampling at computed places: any unit of the map may come from any other."""
    seen = call.source_axes
    for dim in range(call.source.dim()):
        seen = seen and _stretched(seen, dim, call.result.shape[dim])
    return seen
