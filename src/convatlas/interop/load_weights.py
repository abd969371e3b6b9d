"""Copy weights into a network: all of them, or none."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import torch
from torch import Tensor, nn

from convatlas import models
from convatlas.errors import UsageError, UserError, printable, unknown_name
from convatlas.interop import pytorchcv, timm, torchvision
from convatlas.interop.key_mapping import KeyMapping, RenameFn
from convatlas.interop.weight_file import read_weight_file, tensors_of
from convatlas.models import Architecture, Network

SOURCES: dict[str, Mapping[str, KeyMapping]] = {
    "torchvision": torchvision.KEY_MAPPINGS,
    "timm": timm.KEY_MAPPINGS,
    "pytorchcv": pytorchcv.KEY_MAPPINGS,
}
SHOWN = 5  # keys of each kind in a message


def _own(key: str, model: nn.Module) -> str:
    return key


def rename_fn(source: str, architecture: Architecture) -> RenameFn | None:
    """How `source` names the tensors of a network; None where it has no network that computes the same."""
    if source == "convatlas":
        return _own
    twin = SOURCES[source].get(architecture.name)
    return twin.names if twin and architecture.edition in twin.editions else None


@dataclass(frozen=True)
class StateDictMatch:
    """What a state dict has and lacks for a model, under a source's names."""

    source: str
    taken: dict[str, str]  # our key -> theirs
    missing: list[str]
    unexpected: list[str]
    mismatched: list[str]

    @property
    def exact(self) -> bool:
        return not (self.missing or self.unexpected or self.mismatched)

    @property
    def distance(self) -> int:
        return len(self.missing) + len(self.unexpected) + len(self.mismatched)

    def __str__(self) -> str:
        parts = [(kind, getattr(self, kind)) for kind in ("missing", "unexpected", "mismatched")]
        return "; ".join(f"{len(keys)} {kind}: {_some(keys)}" for kind, keys in parts if keys)


def match_state_dict(model: Network, tensors: Mapping[str, Tensor], source: str) -> StateDictMatch | None:
    """How a state dict fits; None where the source does not have this network."""
    assert model.architecture is not None
    rename = rename_fn(source, model.architecture)
    if rename is None:
        return None
    taken, missing, misshaped = {}, [], []
    for key, mine in model.state_dict().items():
        theirs = rename(key, model)
        if theirs not in tensors:
            if not key.endswith("num_batches_tracked"):  # older files lack it; nothing computed here depends on it
                missing.append(theirs)
        elif tensors[theirs].shape != mine.shape:
            misshaped.append(f"{theirs} {tuple(tensors[theirs].shape)} where {tuple(mine.shape)} is expected")
            taken[key] = theirs
        else:
            taken[key] = theirs
    unexpected = sorted(set(tensors) - set(taken.values()))
    return StateDictMatch(source, taken, missing, unexpected, misshaped)


def load_weights(model: Network, weights: str | Path | Mapping[str, Tensor], source: str = "auto") -> str:
    """Copy weights into a network of `create_model`, and return whose names they had.

    `weights` is a file (`.pth`, `.safetensors`, a run's folder) or a state dict, in whole or wrapped as checkpoints are; `source` is
    "convatlas", "torchvision", "timm" or "pytorchcv", or "auto" for whichever fits. Raises UserError, with the model as it was,
    when the weights do not fit exactly (naming the edition that they do fit), are not finite, or the file cannot be used.
    """
    known = ("convatlas", *SOURCES)
    if source != "auto" and source not in known:
        raise unknown_name("source", source, ["auto", *known])
    if not isinstance(model, Network) or model.architecture is None:
        raise UsageError("load_weights needs a network of create_model: it does not know the names of another module's tensors")
    if isinstance(weights, Mapping):
        what, tensors, network = "the state dict", tensors_of(weights, "the state dict"), None
    else:
        what, (tensors, network) = printable(weights), read_weight_file(Path(weights))
    if network is not None and (other := architecture_difference(network, model.architecture)):
        raise UserError(f"{what} holds {network.name} with {other}, which computes something else: build that")
    fits = [fit for one in (known if source == "auto" else (source,)) if (fit := match_state_dict(model, tensors, one)) is not None]
    if not fits:
        raise UsageError(_without_twin(source, model.architecture))
    best = min(fits, key=lambda fit: fit.distance)
    if not best.exact:
        hint = _what_fits(model, tensors, known if source == "auto" else (source,))
        raise UserError(f"{what} does not fit {_described(model)} under {best.source}'s names: {best}{hint}")
    bad = [theirs for theirs in best.taken.values() if tensors[theirs].is_floating_point() and not tensors[theirs].isfinite().all()]
    if bad:
        raise UserError(f"{what} holds values that are not finite in {_some(bad)}: expected trained weights")
    state = model.state_dict()
    with torch.no_grad():
        for mine, theirs in best.taken.items():
            state[mine].copy_(tensors[theirs])
    return best.source


def to_library_state_dict(model: Network, target: str) -> dict[str, Tensor]:
    """The network's tensors under another library's names. Raises UsageError where that library has none that computes the same."""
    if target not in ("convatlas", *SOURCES):
        raise unknown_name("library", target, ["convatlas", *SOURCES])
    if model.architecture is None:
        raise UsageError("only a network of create_model has names in other libraries")
    rename = rename_fn(target, model.architecture)
    if rename is None:
        raise UsageError(_without_twin(target, model.architecture))
    return {rename(key, model): tensor for key, tensor in model.state_dict().items()}


# What weights may meet that were trained with another value: it shows in their shapes, or changes no output of a trained network
_FREE = ("num_classes", "in_chans", "image_size", "dropout", "aux")


def architecture_difference(theirs: Architecture, ours: Architecture) -> str:
    """What the network of a classifier of our own has and this one has not, though the same tensors might fit."""
    if theirs.name != ours.name:
        return ""  # their shapes will tell
    differ = {"edition": theirs.edition} if theirs.edition != ours.edition else {}
    differ |= {k: v for k, v in theirs.arguments.items() if k not in _FREE and ours.arguments.get(k) != v}  # type: ignore[misc]
    return ", ".join(f"{name}={value!r}" for name, value in differ.items())


def _what_fits(model: Network, tensors: Mapping[str, Tensor], sources: tuple[str, ...]) -> str:
    """The edition, with or without auxiliary heads, that the weights would fit: as the end of a sentence."""
    architecture = model.architecture
    assert architecture is not None
    heads = (True, False) if "aux" in architecture.arguments else (None,)
    for edition, aux in product(models.editions(architecture.name), heads):
        known = models.get_entry(architecture.name, edition).arguments(edition)
        arguments = {name: value for name, value in architecture.arguments.items() if name in known}
        if aux is not None:
            arguments["aux"] = aux
        with torch.device("meta"):
            other = models.create_model(architecture.name, edition=edition, **arguments)
        if any((fit := match_state_dict(other, tensors, one)) is not None and fit.exact for one in sources):
            changed = [f"edition={edition!r}"] * (edition != architecture.edition)
            changed += [f"aux={aux}"] * (aux is not None and aux != architecture.arguments["aux"])
            return f"; it fits {architecture.name} built with {', '.join(changed)}"
    return ""


def _without_twin(source: str, architecture: Architecture) -> str:
    twin = SOURCES[source].get(architecture.name)
    if twin:
        return (
            f"{source}'s {architecture.name} computes something else than edition {architecture.edition}: take {' or '.join(twin.editions)}"
        )
    having = [name for name, twins in SOURCES.items() if architecture.name in twins]
    return f"{source} has no {architecture.name}: known are {', '.join(['convatlas', *having])}"


def _described(model: Network) -> str:
    assert model.architecture is not None
    return f"{model.architecture.name}, edition {model.architecture.edition},"


def _some(keys: list[str]) -> str:
    return ", ".join(map(printable, keys[:SHOWN])) + (f" and {len(keys) - SHOWN} more" if len(keys) > SHOWN else "")
