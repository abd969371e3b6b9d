"""Copy weights into a network: all of them, or none."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import torch
from torch import Tensor, nn

from convatlas import models
from convatlas.errors import UsageError, UserError, printable, unknown_name, wrong_type
from convatlas.interop import pytorchcv, timm, torchvision
from convatlas.interop.key_mapping import KeyMapping, RenameFn
from convatlas.interop.weight_file import read_weight_file, state_dict_of
from convatlas.models import Architecture, Network

SOURCES: dict[str, Mapping[str, KeyMapping]] = {
    "torchvision": torchvision.KEY_MAPPINGS,
    "timm": timm.KEY_MAPPINGS,
    "pytorchcv": pytorchcv.KEY_MAPPINGS,
}
MAX_SHOWN_KEYS = 5  # of each kind in a message


def rename_fn(source: str, architecture: Architecture) -> RenameFn | None:
    """The function from this network's keys to those of `source`; None where that library has no network that
    computes the same."""
    if source == "convatlas":
        return _unchanged
    mapping = SOURCES[source].get(architecture.name)
    return mapping.rename if mapping and architecture.edition in mapping.editions else None


def _unchanged(key: str, model: nn.Module) -> str:
    return key


@dataclass(frozen=True)
class StateDictMatch:
    """The keys of a state dict, under the names of `source`, compared with those of a model."""

    source: str
    source_keys: dict[str, str]  # key of the model -> key of the state dict
    missing: list[str]
    unexpected: list[str]
    mismatched: list[str]  # keys with both shapes, in words

    @property
    def exact(self) -> bool:
        return self.distance == 0

    @property
    def distance(self) -> int:
        return len(self.missing) + len(self.unexpected) + len(self.mismatched)

    def __str__(self) -> str:
        kinds = [(kind, getattr(self, kind)) for kind in ("missing", "unexpected", "mismatched")]
        return "; ".join(f"{len(keys)} {kind}: {_list_keys(keys)}" for kind, keys in kinds if keys)


def match_state_dict(model: Network, tensors: Mapping[str, Tensor], source: str) -> StateDictMatch | None:
    """Compare a state dict with a model; None where `source` does not have this network."""
    assert model.architecture is not None
    rename = rename_fn(source, model.architecture)
    if rename is None:
        return None
    source_keys: dict[str, str] = {}
    missing: list[str] = []
    mismatched: list[str] = []
    for key, tensor in model.state_dict().items():
        source_key = rename(key, model)
        if source_key not in tensors:
            # older files lack the counters; nothing computed here depends on them
            if not key.endswith("num_batches_tracked"):
                missing.append(source_key)
            continue
        source_keys[key] = source_key
        shape = tensors[source_key].shape
        if shape != tensor.shape:
            mismatched.append(f"{source_key} {tuple(shape)} where {tuple(tensor.shape)} is expected")
    unexpected = sorted(set(tensors) - set(source_keys.values()))
    return StateDictMatch(source, source_keys, missing, unexpected, mismatched)


def load_weights(model: Network, weights: str | Path | Mapping[str, Tensor], source: str = "auto") -> str:
    """Copy weights into a network of `create_model`. Returns the library whose names they have.

    `weights` is a file (`.pth`, `.safetensors`), a run's folder or a state dict, plain or wrapped as in a
    checkpoint. `source` is "convatlas", "torchvision", "timm" or "pytorchcv", or "auto" for the one that
    fits.

    Raises UserError when the weights do not fit exactly (it names the edition that they fit), are not finite,
    or the file cannot be used; the model is then unchanged.
    """
    known_sources = ("convatlas", *SOURCES)
    if source != "auto" and source not in known_sources:
        raise unknown_name("source", source, ["auto", *known_sources])
    if not isinstance(model, Network) or model.architecture is None:
        raise UsageError(
            "load_weights needs a network of create_model: "
            "it does not know the names of another module's tensors"
        )
    given: object = weights
    if not isinstance(given, str | os.PathLike | Mapping):
        raise wrong_type("the weights", given, "a file, a run's folder or a state dict (module.state_dict())")
    if isinstance(weights, Mapping):
        name = "the state dict"
        tensors = state_dict_of(weights, name)
    else:
        name = printable(weights)
        file = read_weight_file(Path(weights))
        tensors, network = file.tensors, file.architecture
        difference = architecture_difference(network, model.architecture) if network is not None else ""
        if network is not None and difference:
            raise UserError(
                f"{name} holds {network.name} with {difference}, which computes something else: build that"
            )
    sources = known_sources if source == "auto" else (source,)
    candidates = [match_state_dict(model, tensors, candidate) for candidate in sources]
    matches = [match for match in candidates if match is not None]
    if not matches:
        raise UsageError(_no_counterpart(source, model.architecture))
    best = min(matches, key=lambda match: match.distance)
    if not best.exact:
        hint = _fitting_build(model, tensors, sources)
        raise UserError(f"{name} does not fit {_describe(model)} under {best.source}'s names: {best}{hint}")
    non_finite = [
        key
        for key in best.source_keys.values()
        if tensors[key].is_floating_point() and not tensors[key].isfinite().all()
    ]
    if non_finite:
        raise UserError(
            f"{name} holds values that are not finite in {_list_keys(non_finite)}: expected trained weights"
        )
    state = model.state_dict()
    with torch.no_grad():
        for key, source_key in best.source_keys.items():
            state[key].copy_(tensors[source_key])
    return best.source


def to_library_state_dict(model: Network, target: str) -> dict[str, Tensor]:
    """The network's tensors under another library's names. Raises UsageError where that library has no
    network that computes the same."""
    if target not in ("convatlas", *SOURCES):
        raise unknown_name("library", target, ["convatlas", *SOURCES])
    if model.architecture is None:
        raise UsageError("only a network of create_model has names in other libraries")
    rename = rename_fn(target, model.architecture)
    if rename is None:
        raise UsageError(_no_counterpart(target, model.architecture))
    return {rename(key, model): tensor for key, tensor in model.state_dict().items()}


# Arguments that may differ from those of the training: a difference shows in the shapes of the weights, or
# changes no output of a trained network
_FREE_ARGUMENTS = ("num_classes", "in_chans", "image_size", "dropout", "aux")


def architecture_difference(trained: Architecture, target: Architecture) -> str:
    """The edition and arguments of the network in a classifier's file (`trained`) that `target` does not
    have, though the same tensors might fit it; '' if there are none."""
    if trained.name != target.name:
        return ""  # their shapes differ
    differing: dict[str, object] = {}
    if trained.edition != target.edition:
        differing["edition"] = trained.edition
    differing |= {
        name: value
        for name, value in trained.arguments.items()
        if name not in _FREE_ARGUMENTS and target.arguments.get(name) != value
    }
    return ", ".join(f"{name}={value!r}" for name, value in differing.items())


def _fitting_build(model: Network, tensors: Mapping[str, Tensor], sources: tuple[str, ...]) -> str:
    """The edition, with or without auxiliary heads, that the weights fit, as the end of a sentence; '' if
    they fit none."""
    architecture = model.architecture
    assert architecture is not None
    aux_values = (True, False) if "aux" in architecture.arguments else (None,)
    for edition, aux in product(models.editions(architecture.name), aux_values):
        known = models.get_entry(architecture.name, edition).default_arguments(edition)
        arguments = {name: value for name, value in architecture.arguments.items() if name in known}
        if aux is not None:
            arguments["aux"] = aux
        with torch.device("meta"):
            candidate = models.create_model(architecture.name, edition=edition, **arguments)
        matches = [match_state_dict(candidate, tensors, source) for source in sources]
        if any(match is not None and match.exact for match in matches):
            changes = [f"edition={edition!r}"] * (edition != architecture.edition)
            changes += [f"aux={aux}"] * (aux is not None and aux != architecture.arguments["aux"])
            return f"; it fits {architecture.name} built with {', '.join(changes)}"
    return ""


def _no_counterpart(source: str, architecture: Architecture) -> str:
    mapping = SOURCES[source].get(architecture.name)
    if mapping:
        return (
            f"{source}'s {architecture.name} computes something else than edition {architecture.edition}: "
            f"take {' or '.join(mapping.editions)}"
        )
    libraries = [name for name, mappings in SOURCES.items() if architecture.name in mappings]
    return f"{source} has no {architecture.name}: known are {', '.join(['convatlas', *libraries])}"


def _describe(model: Network) -> str:
    assert model.architecture is not None
    return f"{model.architecture.name}, edition {model.architecture.edition},"


def _list_keys(keys: list[str]) -> str:
    listed = ", ".join(map(printable, keys[:MAX_SHOWN_KEYS]))
    return listed + (f" and {len(keys) - MAX_SHOWN_KEYS} more" if len(keys) > MAX_SHOWN_KEYS else "")
