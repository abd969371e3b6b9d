"""What each ATen operator does to what its units see. One function a kind of operator; an operator without one is reported by name."""

import math
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.flop_counter import flop_registry

from convatlas.analysis import sight as sights
from convatlas.analysis.field import Taps, adaptive, interpolated, nearest, repeated, transposed, window
from convatlas.analysis.sight import Axis, Sight

See = Callable[[Any], Sight | None]
"""What the units of a tensor see; None for what does not come from the image."""


class Call:
    """An operator with its arguments by name, and what it gave."""

    def __init__(self, operator: Any, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any, see: See):
        self.kind, self.out, self.see = kind_of(operator), out, see
        self.given = dict(zip(self.kind.arguments, args, strict=False)) | dict(kwargs)

    def __getitem__(self, name: str) -> Any:
        return self.given[name]

    def get(self, name: str, default: Any) -> Any:
        found = self.given.get(name)
        return default if found is None or found == [] else found

    @property
    def source(self) -> Tensor:
        """The tensor that is worked on: the first."""
        return next(value for value in self.given.values() if isinstance(value, Tensor))

    @property
    def seen(self) -> Sight | None:
        return self.see(self.source)

    @property
    def result(self) -> Tensor:
        found: Tensor = self.out[0] if isinstance(self.out, tuple | list) else self.out
        return found

    def tensors(self) -> list[Tensor]:
        found = []
        for value in self.given.values():
            if isinstance(value, Tensor):
                found.append(value)
            elif type(value) in (list, tuple):
                found += [inner for inner in value if isinstance(inner, Tensor)]
        return found

    def dims(self, name: str = "dim") -> set[int]:
        """Dimensions given by a number, several, or none for all."""
        n = self.source.dim()
        given = self.get(name, range(n))
        return {d % n for d in ([given] if isinstance(given, int) else given)} if n else set()


Rule = Callable[[Call], Sight | list[Sight] | None]


class Kind(NamedTuple):
    """What is known of an operator before it is called."""

    name: str
    arguments: tuple[str, ...]
    mutable: bool
    flops: Callable[..., int] | None  # torch's formula; of one that multiplies nothing there is none
    rule: Rule | None


@cache
def kind_of(operator: Any) -> Kind:
    schema = operator._schema
    name = schema.name.removeprefix("aten::")
    rule = RULES.get(name) or RULES.get(name.removesuffix("_"))
    if rule is None:
        rule = elementwise if torch.Tag.pointwise in operator.tags else reduction if torch.Tag.reduction in operator.tags else None
    flops = flop_registry.get(operator.overloadpacket)
    return Kind(name, tuple(argument.name for argument in schema.arguments), schema.is_mutable, flops, rule)


def sight_of(call: Call) -> tuple[Sight | list[Sight] | None, bool]:
    """What the outputs see (a list: each its own), and whether the operator is understood.

    Of one that is not, every unit is taken to see all that any of its inputs sees.
    """
    if call.kind.rule is not None:
        return call.kind.rule(call), True
    return everything(call), not any(call.see(t) for t in call.tensors())


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


# Windows


def _sides(value: Any, n: int) -> list[int]:
    """One number for every axis, or one for each."""
    values = [value] if isinstance(value, int) else list(value)
    return values * n if len(values) == 1 else values


def _windowed(call: Call, taps: Sequence[Taps]) -> Sight | None:
    """`taps` for the last dimensions."""
    shape, out = call.source.shape, call.result.shape
    first = len(shape) - len(taps)
    return call.seen and sights.windowed(call.seen, shape, out, {first + i: t for i, t in enumerate(taps)})


def convolution(call: Call) -> Sight | None:
    kernel = call["weight"].shape[2:]
    n = len(kernel)
    sides = (_sides(call[name], n) for name in ("stride", "padding", "dilation"))
    kind = transposed if call["transposed"] else window
    return _windowed(call, [kind(k, s, p, d) for k, s, p, d in zip(kernel, *sides, strict=True)])


def pooling(call: Call) -> Sight | None:
    given = call["kernel_size"]
    n = int(call.kind.name.split("pool")[1][0])  # max_pool2d_with_indices
    kernel = _sides(given, n)
    sides = (_sides(call.get(name, default), n) for name, default in (("stride", kernel), ("padding", 0), ("dilation", 1)))
    return _windowed(call, [window(k, s, p, d) for k, s, p, d in zip(kernel, *sides, strict=True)])


def adaptive_pooling(call: Call) -> Sight | None:
    n = len(call["output_size"])
    return _windowed(call, [adaptive(i, o) for i, o in zip(call.source.shape[-n:], call.result.shape[-n:], strict=True)])


def upsampling(call: Call) -> Sight | None:
    name = call.kind.name
    n = call.source.dim() - 2
    scales = [call.get(key, None) for key in (("scales_d", "scales_h", "scales_w")[-n:] if n > 1 else ("scales",))]
    corners, taps = bool(call.get("align_corners", False)), []
    for i, o, scale in zip(call.source.shape[2:], call.result.shape[2:], scales, strict=True):
        step = Fraction(1 / scale).limit_denominator(4096) if scale else Fraction(i, o)
        if "nearest" in name:
            taps.append(nearest(step, centred="exact" in name))
        else:
            if corners:
                step = Fraction(i - 1, o - 1) if o > 1 else Fraction(0)
            before, after = (1, 2) if "cubic" in name else (0, 1)
            taps.append(interpolated(step, before, after, corners, name.endswith("_aa")))
    return _windowed(call, taps)


def padding(call: Call) -> Sight | None:
    left = call["pad" if "pad" in call.given else "padding"][::2]  # of the last dimension, the one before, ...
    return _windowed(call, [window(1, 1, p) for p in reversed(left)])


def unfolding(call: Call) -> Sight | None:
    """im2col: (n, c, h, w) -> (n, c * kernel, places)."""
    shape, out = call.source.shape, []
    taps = []
    for side, k, s, p, d in zip(shape[-2:], *(call[name] for name in ("kernel_size", "stride", "padding", "dilation")), strict=True):
        taps.append(window(k, s, p, d))
        out.append((side + 2 * p - d * (k - 1) - 1) // s + 1)
    seen = call.seen and sights.windowed(call.seen, shape, [*shape[:-2], *out], {len(shape) - 2 + i: t for i, t in enumerate(taps)})
    return seen and sights.viewed(seen, [*shape[:-2], *out], [*shape[:-2], math.prod(out)])


def pixel_shuffle(call: Call) -> Sight | None:
    return _windowed(call, [repeated(call["upscale_factor"])] * 2)


def pixel_unshuffle(call: Call) -> Sight | None:
    r = call["downscale_factor"]
    return _windowed(call, [window(r, r)] * 2)


# The same elements at other places


def view(call: Call) -> Sight | None:
    return call.seen and sights.viewed(call.seen, call.source.shape, call.result.shape)


def as_strided(call: Call) -> Sight | None:
    """With the same shape it changes the strides of sides of one alone, as adaptive pooling does to keep channels last."""
    same_places = call.get("storage_offset", 0) == 0 and list(call["size"]) == list(call.source.shape)
    return call.seen if same_places else everything(call)


def permute(call: Call) -> Sight | None:
    n = call.source.dim()
    order = [d % n for d in call["dims"]]
    return call.seen and sights.moved(call.seen, order.index)


def transpose(call: Call) -> Sight | None:
    n = call.source.dim()
    a, b = call.get("dim0", 0) % n, call.get("dim1", 1) % n  # aten::t has neither
    return call.seen and sights.moved(call.seen, lambda d: b if d == a else a if d == b else d)


def unsqueeze(call: Call) -> Sight | None:
    dim = call["dim"] % call.result.dim()
    return call.seen and sights.moved(call.seen, lambda d: d + (d >= dim))


def squeeze(call: Call) -> Sight | None:
    shape = call.source.shape
    gone = {d for d in call.dims() if shape[d] == 1}
    return call.seen and sights.moved(call.seen, lambda d: None if d in gone else d - sum(g < d for g in gone))


def expand(call: Call) -> Sight | None:
    return call.seen and sights.joined([(call.seen, call.source.shape)], call.result.shape)


def _part(call: Call, dim: int, start: int, size: int, step: int = 1) -> Sight | None:
    shape = call.source.shape
    out = [size if d == dim else s for d, s in enumerate(shape)]
    return call.seen and sights.windowed(call.seen, shape, out, {dim: window(1, step, -start)})


def slicing(call: Call) -> Sight | None:
    dim = call.get("dim", 0) % call.source.dim()
    size = call.source.shape[dim]
    start = call.get("start", 0)
    start = min(max(start + size if start < 0 else start, 0), size)
    return _part(call, dim, start, call.result.shape[dim], call.get("step", 1))


def select(call: Call) -> Sight | None:
    dim = call["dim"] % call.source.dim()
    part = _part(call, dim, call["index"] % call.source.shape[dim], 1)
    return part and sights.moved(part, lambda d: None if d == dim else d - (d > dim))


def splitting(call: Call) -> list[Sight] | None:
    if call.seen is None:
        return None
    dim, start, parts = call.get("dim", 0) % call.source.dim(), 0, []
    for piece in call.out:
        part = _part(call, dim, start, piece.shape[dim])
        assert part is not None
        parts.append(part)
        start += piece.shape[dim]
    return parts


def unbind(call: Call) -> list[Sight] | None:
    dim = call.get("dim", 0) % call.source.dim()
    parts = [part for i in range(len(call.out)) if (part := _part(call, dim, i, 1))]
    return [sights.moved(part, lambda d: None if d == dim else d - (d > dim)) for part in parts] or None


def concatenation(call: Call) -> Sight | None:
    tensors = [t for t in call["tensors"] if t.dim() == call.result.dim()]  # cat skips the empty ones of old
    dim, out = call.get("dim", 0) % call.result.dim(), call.result.shape
    seen = [(_stretched(s, dim, out[dim]), out) for t in tensors if (s := call.see(t)) is not None]
    return sights.joined(seen, out) if seen else None


def stack(call: Call) -> Sight | None:
    dim = call.get("dim", 0) % call.result.dim()
    seen = [(sights.moved(s, lambda d: d + (d >= dim)), call.result.shape) for t in call["tensors"] if (s := call.see(t)) is not None]
    return sights.joined(seen, call.result.shape) if seen else None


def _stretched(sight: Sight, dim: int, size: int) -> Sight:
    """Of an axis that grows or whose units change places, each unit is taken to see what all of them see."""
    return tuple(Axis(axis.mixed().field, dim, size) if axis.dim == dim else axis for axis in sight)


def indexing(call: Call) -> Sight | None:
    """index: one index of one dimension along that dimension keeps all others where they are."""
    seen, used = call.seen, [d for d, index in enumerate(call["indices"]) if index is not None]
    if seen is None:
        return None
    if len(used) == 1 and call["indices"][used[0]].dim() == 1:
        return _stretched(seen, used[0], call.result.shape[used[0]])
    return everything(call)


def index_select(call: Call) -> Sight | None:
    dim = call["dim"] % call.source.dim()
    return call.seen and _stretched(call.seen, dim, call.result.shape[dim])


def rearranged(call: Call) -> Sight | None:
    """roll, flip, sampling at computed places: any unit of the map may come from any other."""
    seen = call.seen
    for dim in range(call.source.dim()):
        seen = seen and _stretched(seen, dim, call.result.shape[dim])
    return seen


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


RULES: dict[str, Rule] = {
    name: rule
    for rule, names in (
        (convolution, "convolution _convolution cudnn_convolution"),
        (pooling, "max_pool2d_with_indices max_pool3d_with_indices avg_pool1d avg_pool2d avg_pool3d"),
        (adaptive_pooling, "_adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_avg_pool1d adaptive_max_pool2d adaptive_max_pool3d"),
        (upsampling, "upsample_nearest1d upsample_nearest2d upsample_nearest3d _upsample_nearest_exact1d _upsample_nearest_exact2d"),
        (upsampling, "upsample_linear1d upsample_bilinear2d upsample_trilinear3d upsample_bicubic2d"),
        (upsampling, "_upsample_bilinear2d_aa _upsample_bicubic2d_aa"),
        (padding, "constant_pad_nd reflection_pad1d reflection_pad2d reflection_pad3d"),
        (padding, "replication_pad1d replication_pad2d replication_pad3d"),
        (unfolding, "im2col"),
        (pixel_shuffle, "pixel_shuffle"),
        (pixel_unshuffle, "pixel_unshuffle"),
        (view, "view _unsafe_view reshape _reshape_alias"),
        (as_strided, "as_strided"),
        (permute, "permute"),
        (transpose, "t transpose"),
        (unsqueeze, "unsqueeze"),
        (squeeze, "squeeze"),
        (expand, "expand"),
        (slicing, "slice"),
        (select, "select"),
        (splitting, "split split_with_sizes unsafe_split unsafe_split_with_sizes"),
        (unbind, "unbind"),
        (concatenation, "cat"),
        (stack, "stack"),
        (indexing, "index"),
        (index_select, "index_select"),
        (rearranged, "roll flip grid_sampler_2d max_unpool2d"),
        (reduction, "mean sum amax amin max min argmax argmin var_mean var std linalg_vector_norm norm prod"),
        (along_dim, "_softmax _safe_softmax _log_softmax cumsum"),
        (batch_norm, "native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training cudnn_batch_norm"),
        (layer_norm, "native_layer_norm"),
        (group_norm, "native_group_norm"),
        (matmul, "addmm mm bmm baddbmm"),
        (linear, "linear mv"),
        (attention, "_scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_efficient_attention"),
        (attention, "_scaled_dot_product_flash_attention _scaled_dot_product_attention_math"),
        (copy, "copy"),
        (same, "clone _to_copy detach alias lift_fresh native_dropout channel_shuffle hardswish"),
        (nothing, "empty empty_like empty_strided new_empty zeros zeros_like new_zeros ones ones_like new_ones full full_like new_full"),
        (nothing, "arange linspace eye scalar_tensor rand randn rand_like randn_like randint bernoulli uniform normal zero fill random"),
        (nothing, "_assert_async sym_size sym_numel is_same_size embedding"),
    )
    for name in names.split()
}
