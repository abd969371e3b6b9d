"""The part of a checkpoint that fits a network best, and what of it does not fit."""

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from convatlas.errors import printable
from convatlas.interop import huggingface, pytorchcv, timm, torchvision
from convatlas.interop.key_mapping import KeyMapping, RenameFn
from convatlas.models import Architecture, Network

SOURCES: dict[str, Mapping[str, KeyMapping]] = {
    "torchvision": torchvision.KEY_MAPPINGS,
    "timm": timm.KEY_MAPPINGS,
    "pytorchcv": pytorchcv.KEY_MAPPINGS,
    "huggingface": huggingface.KEY_MAPPINGS,
}
MAX_SHOWN_KEYS = 5  # of each kind in a message
Head = Literal["keep", "new"]

# Batch norm counts its batches for a momentum of None, which nothing here has
_COUNTER = "num_batches_tracked"
# A path component with one of these words holds averaged weights
_AVERAGED = {"ema", "swa", "average", "averaged", "avg", "polyak", "shadow"}
_LAYER_TENSORS = {"weight", "bias", "running_mean", "running_var"}


@dataclass(frozen=True)
class StateDictMatch:
    """The tensors of a checkpoint, under the names of `source`, compared with those of a network.

    `part` is the path of the tensors that fit best ("" for the whole). `source_keys` holds the path of every
    tensor that has the name of one of the network's, whether or not its shape fits. `new` are the network's
    keys that keep their initial values, with head="new". `unexpected` belong to layers that the network
    lacks; `ignored` are tensors that say nothing of the network: optimiser states, counters, other parts.
    """

    source: str
    source_keys: dict[str, str]  # key of the model -> path in the checkpoint
    missing: list[str]
    unexpected: list[str]
    mismatched: list[str]  # keys with both shapes, in words
    part: str = ""
    total: int = 0  # tensors that the network needs
    new: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()

    @property
    def exact(self) -> bool:
        return self.distance == 0

    @property
    def distance(self) -> int:
        return len(self.missing) + len(self.unexpected) + len(self.mismatched)

    @property
    def fitting(self) -> int:
        """How many of the `total` tensors fit."""
        return self.total - len(self.missing) - len(self.mismatched)

    def __str__(self) -> str:
        kinds = [(kind, getattr(self, kind)) for kind in ("missing", "unexpected", "mismatched")]
        counts = f"{self.fitting:,} of {self.total:,} tensors fit"
        return "; ".join(
            [counts, *(f"{len(keys)} {kind}: {list_keys(keys)}" for kind, keys in kinds if keys)]
        )


def get_mapping(source: str, name: str, config: Mapping[str, Any] | None = None) -> KeyMapping | None:
    """The form of a network in a library; `config` is the config.json that came with its weights."""
    mapping = SOURCES[source].get(name)
    return huggingface.configured(mapping, config) if mapping and source == "huggingface" else mapping


def rename_fn(
    source: str, architecture: Architecture, config: Mapping[str, Any] | None = None
) -> RenameFn | None:
    """The function from this network's keys to those of `source`; None where that library has no network that
    computes the same."""
    if source == "convatlas":
        return _unchanged
    mapping = get_mapping(source, architecture.name, config)
    return mapping.rename if mapping and architecture.edition in mapping.editions else None


def _unchanged(key: str, model: nn.Module) -> str:
    return key


def match_state_dict(
    model: Network,
    tensors: Mapping[str, Tensor],
    source: str,
    head: Head = "keep",
    config: Mapping[str, Any] | None = None,
) -> StateDictMatch | None:
    """Find the part of a checkpoint's tensors (by their whole paths, as `tensors_of` lists them) that fits
    the network best; None where `source` does not have this network.

    Every path before a name of the network is a candidate: a wrapping mapping, a prefix, or both. The one
    whose tensors fit in most names and shapes is taken; of equals averaged weights, then the shortest path,
    then the first in the file. Names that it lacks may stand beside it (`fc.` beside `backbone.`).
    """
    assert model.architecture is not None
    rename = rename_fn(source, model.architecture, config)
    if rename is None:
        return None
    mapping = SOURCES[source][model.architecture.name] if source in SOURCES else None
    base = mapping.base_prefix if mapping else ""
    state = model.state_dict()
    full_names = [rename(key, model) for key in state]
    keys = {name.removeprefix(base): key for name, key in zip(full_names, state, strict=True)}
    full = dict(zip(keys, full_names, strict=True))
    shapes = {name: state[key].shape for name, key in keys.items()}
    needed = {name for name in keys if not name.endswith(_COUNTER)}

    parts = _parts(tensors, keys.keys())
    renewed = _classification_keys(model, parts, keys) if head == "new" else set()
    needed = {name for name in needed if keys[name] not in renewed}

    def fitting(part: dict[str, str]) -> int:
        return sum(name in needed and tensors[path].shape == shapes[name] for name, path in part.items())

    part = max(
        parts, key=lambda prefix: (fitting(parts[prefix]), is_averaged(prefix), -len(prefix)), default=""
    )
    names = dict(parts.get(part, {}))  # the source's name -> path
    prefixes = [part]
    for prefix in sorted(_beside(part, parts), key=lambda prefix: -fitting(parts[prefix])):
        if not names.keys() & parts[prefix].keys():
            names |= parts[prefix]
            prefixes.append(prefix)
    if head == "new":
        fits = {keys[name] for name, path in names.items() if tensors[path].shape == shapes[name]}
        renewed |= _head_from_first_misfit(model, fits)
        needed = {name for name in needed if keys[name] not in renewed}

    missing = [full[name] for name in keys if name in needed and name not in names]
    mismatched = [
        f"{full[name]} {tuple(tensors[path].shape)} where {tuple(shapes[name])} is expected"
        for name, path in names.items()
        if tensors[path].shape != shapes[name] and keys[name] not in renewed
    ]
    used = set(names.values())
    rest = [path for path in tensors if path not in used]
    unexpected = list(_layers_of_another(rest, prefixes, needed)) if names else rest
    stray = set(unexpected)
    ignored = [path for path in rest if path not in stray]
    return StateDictMatch(
        source=source,
        source_keys={keys[name]: path for name, path in names.items() if keys[name] not in renewed},
        missing=missing,
        unexpected=sorted(unexpected),
        mismatched=mismatched,
        part=part.removesuffix("."),
        total=len(needed),
        new=tuple(key for key in state if key in renewed),
        ignored=tuple(ignored),
    )


def _parts(tensors: Mapping[str, Tensor], names: Collection[str]) -> dict[str, dict[str, str]]:
    """The paths that end in a name of the network: {path before the name: {name: path}}."""
    parts: dict[str, dict[str, str]] = {}
    for path in tensors:
        for prefix, name in splits(path):
            if name in names:
                parts.setdefault(prefix, {})[name] = path
    return parts


def splits(path: str) -> Iterator[tuple[str, str]]:
    """Every division of a path before a component: the prefix, empty or ending in a dot, and the rest."""
    start = 0
    while True:
        yield path[:start], path[start:]
        dot = path.find(".", start)
        if dot < 0:
            return
        start = dot + 1


def is_averaged(prefix: str) -> bool:
    return not _AVERAGED.isdisjoint(re.split(r"[._]", prefix.lower()))


def _beside(part: str, parts: Collection[str]) -> list[str]:
    """The other parts that stand beside this one: before it on its path, or one component further.

    Nothing inside the part itself: `layer1.0.` has a `bn1.weight` too.
    """
    before = {prefix for prefix, _ in splits(part)}
    return [
        prefix
        for prefix in parts
        if not prefix.startswith(part) and (prefix in before or parent(prefix) in before)
    ]


def parent(prefix: str) -> str:
    """The prefix without its last component: `a.` for `a.b.`, and empty for `a.`."""
    return prefix[: prefix.rstrip(".").rfind(".") + 1]


def _layers_of_another(
    paths: Collection[str], prefixes: Collection[str], names: Collection[str]
) -> Iterator[str]:
    """The tensors that would be layers of the network, which lacks them: of a further block of a stage, a
    bias, or `conv3_4` beside `conv3_3`. The weights are then those of another network."""
    tops = {_without_digits(name) for name in names}
    for path in paths:
        if path.rpartition(".")[2] in _LAYER_TENSORS and any(
            path.startswith(prefix) and _without_digits(path.removeprefix(prefix)) in tops
            for prefix in prefixes
        ):
            yield path


def _without_digits(name: str) -> str:
    """The first component of a name, without its numbers."""
    return re.sub(r"\d", "", name.split(".")[0])


def classification_layers(model: Network) -> list[str]:
    """The paths of the layers that give class scores: the last, and every auxiliary head's last."""
    layers = [model.classifier]
    for head in model.heads:
        modules = model.get_submodule(head).named_modules()
        layers.append([f"{head}.{path}" for path, layer in modules if isinstance(layer, nn.Linear)][-1])
    return layers


def _classification_keys(
    model: Network, parts: Mapping[str, Mapping[str, str]], keys: Mapping[str, str]
) -> set[str]:
    """The model's keys of the layers that give class scores, and of auxiliary heads that no part has."""
    present = {keys[name] for part in parts.values() for name in part}
    layers = classification_layers(model)
    layers += [head for head in model.heads if not any(key.startswith(f"{head}.") for key in present)]
    return {key for key in keys.values() if key.startswith(tuple(f"{layer}." for layer in layers))}


def _head_from_first_misfit(model: Network, fits: Collection[str]) -> set[str]:
    """The model's keys of its fully connected layers from the first on that does not fit: fc6 to fc8 of VGG
    where the weights hold its convolutions alone, or are for images of another size."""
    layers: list[str] = []
    for name, child in reversed(model._modules.items()):
        parameters = {key for key, _ in child.named_parameters()} if child else set()
        linear = isinstance(child, nn.Linear)
        if name in model.heads or not parameters:
            continue
        if name != model.classifier and not linear:
            break
        layers.insert(0, name)
    for position, layer in enumerate(layers):
        expected = {f"{layer}.{key}" for key in model.get_submodule(layer).state_dict()}
        if not expected <= set(fits):
            stale = tuple(f"{later}." for later in layers[position:])
            return {key for key in model.state_dict() if key.startswith(stale)}
    return set()


def list_keys(keys: Collection[str]) -> str:
    shown = list(keys)[:MAX_SHOWN_KEYS]
    rest = len(keys) - len(shown)
    return ", ".join(map(printable, shown)) + (f" and {rest} more" if rest else "")
