"""Receptive fields through operators that combine elements: reductions, norms, products, attention."""

from convatlas.analysis.receptive_field import axes as sights
from convatlas.analysis.receptive_field.axes import Sight
from convatlas.analysis.receptive_field.call import Call
from convatlas.analysis.receptive_field.intervals import window


def everything(call: Call) -> Sight | None:
    seen = [sights.gathered(s, range(t.dim())) for t in call.tensors() if (s := call.see(t)) is not None]
    return sights.joined([(s, ()) for s in seen], ()) if seen else None


def elementwise(call: Call) -> Sight | None:
    seen = [(s, t.shape) for t in call.tensors() if (s := call.see(t)) is not None]
    return sights.joined(seen, call.result.shape) if seen else None


def nothing(call: Call) -> None:
    return None


def same(call: Call) -> Sight | None:
    return call.seen


# Many units into one


def reduction(call: Call) -> Sight | None:
    dims, shape = call.dims(), call.source.shape
    kept = [1 if d in dims else size for d, size in enumerate(shape)]
    seen = call.seen and sights.windowed(call.seen, shape, kept, {d: window(shape[d], shape[d]) for d in dims})
    if call.get("keepdim", False):
        return seen
    return seen and sights.moved(seen, lambda d: None if d in dims else d - sum(g < d for g in dims))


def along_dim(call: Call) -> Sight | None:
    """softmax and its like: every unit of a dimension reads all of it."""
    return call.seen and sights.mixed(call.seen, call.dims())


def batch_norm(call: Call) -> Sight | None:
    batch_statistics = call.get("training", "running_mean" not in call.given)
    return call.seen and (sights.mixed(call.seen, range(2, call.source.dim())) if batch_statistics else call.seen)


def layer_norm(call: Call) -> Sight | None:
    n = call.source.dim()
    return call.seen and sights.mixed(call.seen, range(n - len(call["normalized_shape"]), n))


def group_norm(call: Call) -> Sight | None:
    return call.seen and sights.mixed(call.seen, range(1, call.source.dim()))


def matmul(call: Call) -> Sight | None:
    """The last dimension of the left and the last but one of the right meet."""
    names = ("mat1", "mat2") if "mat1" in call.given else ("batch1", "batch2") if "batch1" in call.given else ("self", "mat2")
    left, right = call[names[0]], call[names[1]]
    seen = []
    if (s := call.see(left)) is not None:
        seen.append((sights.gathered(s, {left.dim() - 1}), call.result.shape))
    if (s := call.see(right)) is not None:
        seen.append((sights.gathered(s, {right.dim() - 2}), call.result.shape))
    return sights.joined(seen, call.result.shape) if seen else None


def linear(call: Call) -> Sight | None:
    return call.seen and sights.gathered(call.seen, {call.source.dim() - 1})


def attention(call: Call) -> Sight | None:
    """Every query reads all keys and values."""
    seen = []
    for name in ("query", "key", "value"):
        if (s := call.see(call[name])) is not None:
            n = call[name].dim()
            seen.append((sights.gathered(s, {n - 1} if name == "query" else {n - 2, n - 1}), call.result.shape))
    return sights.joined(seen, call.result.shape) if seen else None


def copy(call: Call) -> Sight | None:
    s = call.see(call["src"])
    return s and sights.joined([(s, call["src"].shape)], call["self"].shape)
