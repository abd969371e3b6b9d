"""The output of a module that returns several tensors: which of them counts, and how it is named."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor
from torch.utils._pytree import tree_leaves

KEYS = ("logits", "out")  # in this order; Hugging Face's classifiers, torchvision's segmentation networks


class MainOutput(NamedTuple):
    """The tensor, and where it stands: `'logits' of its dict`; "" for a module that returns it alone."""

    tensor: Tensor
    place: str


def main_output(output: Any) -> MainOutput | None:
    """The output that counts: a tensor itself, else the entry `logits` or `out`, else the first tensor.

    None where there is no tensor.
    """
    if isinstance(output, Tensor):
        return MainOutput(output, "")
    kind = type(output).__name__
    for key in KEYS:
        entry = output.get(key) if isinstance(output, Mapping) else getattr(output, key, None)
        if isinstance(entry, Tensor):
            return MainOutput(entry, f"'{key}' of its {kind}")
    if isinstance(output, Mapping):
        for name, entry in output.items():
            if isinstance(entry, Tensor):
                return MainOutput(entry, f"{str(name)!r} of its {kind}")
    first = next((leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)), None)
    return None if first is None else MainOutput(first, f"the first tensor of its {kind}")
