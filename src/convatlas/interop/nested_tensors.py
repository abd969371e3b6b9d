"""The tensors of a checkpoint, whatever it nests them in, by their paths."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

MAX_DEPTH = 32  # mappings inside each other
# Names that torch's wrapping modules add: DataParallel and DistributedDataParallel, compile, FSDP
_WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")


def tensors_of(content: Any) -> dict[str, Tensor]:
    """Every tensor in nested mappings and lists, in order, by its whole path: `state_dict.conv1.weight`.

    The names that torch's wrapping modules add, anywhere in a path, are left out. A mapping that occurs twice
    is listed once.
    """
    tensors: dict[str, Tensor] = {}
    visited: set[int] = set()
    waiting: list[tuple[str, Any, int]] = [("", content, 0)]
    while waiting:
        path, value, depth = waiting.pop()
        if isinstance(value, Tensor):
            short = ".".join(part for part in path.split(".") if part not in _WRAPPERS)
            tensors[path if short in tensors else short] = value
        elif id(value) not in visited and depth <= MAX_DEPTH:
            if isinstance(value, Mapping):
                children = [(str(key), child) for key, child in value.items()]
            elif isinstance(value, list | tuple):
                children = [(str(index), child) for index, child in enumerate(value)]
            else:
                continue
            visited.add(id(value))
            prefix = f"{path}." if path else ""
            waiting += [(prefix + key, child, depth + 1) for key, child in reversed(children)]
    return tensors
