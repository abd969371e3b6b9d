"""The weights among a checkpoint's tensors where the network is not known yet: by the usual first names."""

import re
from collections.abc import Mapping

from torch import Tensor

from convatlas.interop.state_dict_match import is_averaged, parent, splits

# The first components of tensor names, without numbers, of the networks here and in other libraries
FIRST_NAMES = re.compile(
    r"conv\w*|norm\w*|bn|layer|fc|linear|logits|output|features|classifier|last_linear|aux\w*|blocks?|stage"
    r"|unit|final|entry_flow|middle_flow|exit_flow|inception\w*|Mixed_\w*|Conv\w*|Aux\w*|C|F|S|resnet|embedder"
    r"|encoder|score\w*|upscore\w*|down\w*|up\w*|contract\w*|expan\w*|bottom|stem\w*"
)


def main_part(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of the best part, by their names in it: `state_dict.backbone.conv1.weight` as
    `conv1.weight`.

    The part is the path before which most tensors have a usual first name; of equals averaged weights, then
    the longest, then the first in the file. Tensors beside it, such as `fc.weight`,
    keep their names, and other parts are left out.
    """
    counts: dict[str, int] = {}
    for path in tensors:
        for prefix, name in splits(path):
            if name and _has_first_name(name):
                counts[prefix] = counts.get(prefix, 0) + 1
    if not counts:
        return dict(tensors)
    part = max(counts, key=lambda prefix: (counts[prefix], is_averaged(prefix), len(prefix)))
    beside = parent(part)
    chosen = {path.removeprefix(part): tensor for path, tensor in tensors.items() if path.startswith(part)}
    for path, tensor in tensors.items():
        name = path.removeprefix(beside)
        if path.startswith(beside) and not path.startswith(part) and _has_first_name(name):
            chosen.setdefault(name, tensor)
    return chosen


def _has_first_name(name: str) -> bool:
    return FIRST_NAMES.fullmatch(re.sub(r"\d", "", name.split(".")[0])) is not None
