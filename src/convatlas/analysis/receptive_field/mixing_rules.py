"""Receptive fields through operators that combine elements: reductions, norms, products, attention."""

from convatlas.analysis.receptive_field import axes as sights
from convatlas.analysis.receptive_field.axes import ImageAxes
from convatlas.analysis.receptive_field.call import OperatorCall
from convatlas.analysis.receptive_field.intervals import window


def everything(call: OperatorCall) -> ImageAxes | None:
    seen = [sights.reduced(s, range(t.dim())) for t in call.tensors() if (s := call.axes_of(t)) is not None]
    return sights.broadcast([(s, ()) for s in seen], ()) if seen else None


def elementwise(call: OperatorCall) -> ImageAxes | None:
    seen = [(s, t.shape) for t in call.tensors() if (s := call.axes_of(t)) is not None]
    return sights.broadcast(seen, call.result.shape) if seen else None


def nothing(call: OperatorCall) -> None:
    return None


def same(call: OperatorCall) -> ImageAxes | None:
    return call.source_axes


# Many units into one


def reduction(call: OperatorCall) -> ImageAxes | None:
    dims, shape = call.dims(), call.source.shape
    kept = [1 if d in dims else size for d, size in enumerate(shape)]
    seen = call.source_axes and sights.windowed(call.source_axes, shape, kept, {d: window(shape[d], shape[d]) for d in dims})
    if call.get("keepdim", False):
        return seen
    return seen and sights.permuted(seen, lambda d: None if d in dims else d - sum(g < d for g in dims))


def along_dim(call: OperatorCall) -> ImageAxes | None:
    """softmax and its like: every unit of a dimension reads all of it."""
    return call.source_axes and sights.global_over(call.source_axes, call.dims())


def batch_norm(call: OperatorCall) -> ImageAxes | None:
    batch_statistics = call.get("training", "running_mean" not in call.arguments)
    return call.source_axes and (
        sights.global_over(call.source_axes, range(2, call.source.dim())) if batch_statistics else call.source_axes
    )


def layer_norm(call: OperatorCall) -> ImageAxes | None:
    n = call.source.dim()
    return call.source_axes and sights.global_over(call.source_axes, range(n - len(call["normalized_shape"]), n))


def group_norm(call: OperatorCall) -> ImageAxes | None:
    return call.source_axes and sights.global_over(call.source_axes, range(1, call.source.dim()))


def matmul(call: OperatorCall) -> ImageAxes | None:
    """The last dimension of the left and the last but one of the right meet."""
    names = ("mat1", "mat2") if "mat1" in call.arguments else ("batch1", "batch2") if "batch1" in call.arguments else ("self", "mat2")
    left, right = call[names[0]], call[names[1]]
    seen = []
    if (s := call.axes_of(left)) is not None:
        seen.append((sights.reduced(s, {left.dim() - 1}), call.result.shape))
    if (s := call.axes_of(right)) is not None:
        seen.append((sights.reduced(s, {right.dim() - 2}), call.result.shape))
    return sights.broadcast(seen, call.result.shape) if seen else None


def linear(call: OperatorCall) -> ImageAxes | None:
    return call.source_axes and sights.reduced(call.source_axes, {call.source.dim() - 1})


def attention(call: OperatorCall) -> ImageAxes | None:
    """Every query reads all keys and values."""
    seen = []
    for name in ("query", "key", "value"):
        if (s := call.axes_of(call[name])) is not None:
            n = call[name].dim()
            seen.append((sights.reduced(s, {n - 1} if name == "query" else {n - 2, n - 1}), call.result.shape))
    return sights.broadcast(seen, call.result.shape) if seen else None


def copy(call: OperatorCall) -> ImageAxes | None:
    s = call.axes_of(call["src"])
    return s and sights.broadcast([(s, call["src"].shape)], call["self"].shape)
