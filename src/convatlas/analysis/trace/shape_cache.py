"""Cached operators on meta tensors: the same shapes, strides and types give the same result.

torch derives the result each time, mostly in Python, which would take more than half of a trace. Networks
repeat their operators.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

MAX_ENTRIES = 20_000
_cache: dict[Any, Callable[[Sequence[Any]], Any]] = {}  # functions that make a result from the arguments


class _NotCacheable(Exception):
    """An argument that is neither a strided meta tensor nor a value."""


def cached_op(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """`func(*args, **kwargs)`; on meta tensors without deriving a result twice."""
    if not _is_cacheable(func):
        return func(*args, **kwargs)
    try:
        key = func, _cache_key(args), _cache_key(tuple(kwargs.items()))
        make_result = _cache.get(key)
    except (_NotCacheable, TypeError):
        return func(*args, **kwargs)
    if make_result is not None:
        return make_result(args)
    output = func(*args, **kwargs)
    if len(_cache) >= MAX_ENTRIES:
        _cache.clear()
    if output is args[0]:
        _cache[key] = lambda args: args[0]  # in place
    elif isinstance(output, Tensor) and output.is_meta:
        _cache[key] = _maker_like(output)
    elif type(output) is tuple and all(isinstance(tensor, Tensor) and tensor.is_meta for tensor in output):
        makers = [_maker_like(tensor) for tensor in output]
        _cache[key] = lambda args: tuple(make(args) for make in makers)
    return output


@cache
def _is_cacheable(func: Any) -> bool:
    """Whether the results are new tensors, or the first argument changed in place element by element.

    Views and factories are not cacheable.
    """
    schema = func._schema
    if not schema.arguments or "Tensor" not in str(schema.arguments[0].type):
        return False
    first, *others = (argument.alias_info is not None for argument in schema.arguments)
    if first and torch.Tag.pointwise in func.tags:
        return not any(others)
    return not any((first, *others)) and all(value.alias_info is None for value in schema.returns)


def _cache_key(value: Any) -> Any:
    if isinstance(value, Tensor):
        if not value.is_meta or value.layout is not torch.strided:
            raise _NotCacheable
        return value.shape, value.stride(), value.dtype
    if type(value) in (list, tuple):
        return tuple([_cache_key(item) for item in value])
    return type(value), value  # with the type, because 1, 1.0 and True are equal


def _maker_like(like: Tensor) -> Callable[[Sequence[Any]], Tensor]:
    """A function that makes a new meta tensor of the same shape, strides and type."""
    shape, stride, dtype = like.shape, like.stride(), like.dtype
    return lambda args: torch.empty_strided(shape, stride, dtype=dtype, device="meta")


class ShapeCacheMode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Run every operator through `cached_op`."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return cached_op(func, args, kwargs or {})
