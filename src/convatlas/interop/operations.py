"""What a network computes, as the list of its operations: two builds that take the same tensors are compared
without a single weight."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from convatlas.models import Network

Operation = tuple[str, tuple[tuple[str, str], ...]]
"""An ATen operator, and its arguments by name; a parameter has the name of its tensor in the file"""


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, names: Mapping[int, str]):
        super().__init__()  # type: ignore[no-untyped-call]
        self.names = names
        self.operations: list[Operation] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        values = {argument.name: value for argument, value in zip(func._schema.arguments, args, strict=False)}
        values |= kwargs or {}
        arguments = tuple((name, self._describe(value)) for name, value in values.items())
        self.operations.append((func.overloadpacket.__name__, arguments))
        return func(*args, **(kwargs or {}))

    def _describe(self, value: Any) -> str:
        if isinstance(value, Tensor):
            return self.names.get(id(value)) or str(tuple(value.shape))
        if isinstance(value, list | tuple):
            return f"[{', '.join(map(self._describe, value))}]"
        return str(value)


def list_operations(
    network: Network, source_keys: Mapping[str, str], size: tuple[int, int]
) -> list[Operation]:
    """The operations of a network on meta tensors, in evaluation, for one image of `size` (height, width).

    `source_keys` are the names in the file by the network's own. Equal lists compute the same from the same
    file. Raises UsageError for a size that the network does not take.
    """
    network.eval()
    tensors = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    names = {id(tensor): source_keys.get(name, name) for name, tensor in tensors.items()}
    recorder = _Recorder(names)
    with torch.no_grad(), recorder:
        network(torch.empty(1, network.in_chans, *size, device="meta"))
    # an image itself is made inside the block
    return recorder.operations[1:]


def differing_arguments(first: list[Operation], second: list[Operation]) -> list[str]:
    """In what two lists of operations differ: names of arguments such as "stride" and "eps", in the order in
    which they occur, or the operations that one has and the other lacks. Empty where both compute
    the same."""
    if [name for name, _ in first] != [name for name, _ in second]:
        counts, other_counts = (Counter(name for name, _ in operations) for operations in (first, second))
        names = (counts - other_counts) | (other_counts - counts)
        return [f"operations ({', '.join(sorted(names))})" if names else "the order of operations"]
    differences: dict[str, None] = {}
    for (_, arguments), (_, other_arguments) in zip(first, second, strict=True):
        for (name, value), (_, other_value) in zip(arguments, other_arguments, strict=False):
            if value != other_value:
                differences[name] = None
    # shapes of the tensors follow from the arguments
    settings = [name for name in differences if name not in ("input", "self", "other", "tensors", "mat1")]
    return settings or list(differences)
