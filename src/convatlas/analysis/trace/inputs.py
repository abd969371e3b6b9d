"""The arguments of one forward pass, from a shape or from example inputs."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from convatlas.errors import UsageError, printable


def forward_arguments(module: nn.Module, example: Any, device: str) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of one forward pass, positional and by name, on `device`.

    Raises UsageError for an example from which no input can be made.
    """
    if _is_shape(example):
        if min(example) < 1:
            raise UsageError(
                f"the input {tuple(example)} has an empty side: "
                "expected (channels, height, width) of one image"
            )
        dtypes = (p.dtype for p in module.parameters() if p.is_floating_point())
        dtype = next(dtypes, torch.get_default_dtype())
        return (torch.empty(1, *example, dtype=dtype, device=device),), {}

    def to_device(value: Any) -> Any:
        return value.detach().to(device) if isinstance(value, Tensor) else value

    if isinstance(example, Tensor):
        return (to_device(example),), {}
    if isinstance(example, Mapping) and all(isinstance(key, str) for key in example):
        return (), {key: tree_map(to_device, value) for key, value in example.items()}
    if isinstance(example, tuple | list) and any(isinstance(leaf, Tensor) for leaf in tree_leaves(example)):
        return tuple(tree_map(to_device, value) for value in example), {}
    raise UsageError(
        f"cannot make an input of {printable(repr(example))[:80]}: expected (channels, height, width), "
        "a tensor, a tuple of the forward's arguments, or a dictionary of them by name"
    )


def _is_shape(example: Any) -> bool:
    if not isinstance(example, Sequence) or isinstance(example, str) or not example:
        return False
    return all(isinstance(size, int) for size in example)
