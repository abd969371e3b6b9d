"""Copy weights into a network: all of them, or none."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from convatlas import models
from convatlas.errors import UsageError, UserError, printable, unknown_name, wrong_type
from convatlas.formatting import describe_edits
from convatlas.interop.nested_tensors import tensors_of
from convatlas.interop.state_dict_match import (
    SOURCES,
    Head,
    StateDictMatch,
    get_mapping,
    list_keys,
    match_state_dict,
    rename_fn,
)
from convatlas.interop.weight_file import read_weight_file
from convatlas.models import Architecture, Network

MAX_SHOWN_GROUPS = 4  # of ignored tensors in a sentence


@dataclass(frozen=True)
class LoadedWeights:
    """What `load_weights` has copied: from which part of a file, under which library's names.

    `ignored` are the paths of the tensors that were not needed, `new` the network's keys that keep their
    initial values.
    """

    source: str
    part: str  # the path in the file; "" for the whole
    tensors: int  # copied
    ignored: tuple[str, ...]
    new: tuple[str, ...]

    def __str__(self) -> str:
        part = f" of {printable(self.part)}" if self.part else ""
        sentences = [f"{count_tensors(self.tensors)}{part}, under {self.source}'s names"]
        if self.ignored:
            sentences.append(f"ignored: {summarize_paths(self.ignored, self.part)}")
        if self.new:
            sentences.append(f"newly initialised: {list_layers(self.new)}")
        return "; ".join(sentences)


def load_weights(
    model: Network, weights: str | Path | Mapping[str, Any], source: str = "auto", head: Head = "keep"
) -> LoadedWeights:
    """Copy weights into a network of `create_model`. Returns what was copied, and from where.

    `weights` is a file (`.pth`, `.safetensors`), a folder (a run, or Hugging Face's layout) or a state dict,
    plain or anywhere in a checkpoint: the part that fits best is taken, averaged weights before equals, and
    what says nothing of the network (optimiser states, counters) is ignored. `source` is "convatlas",
    "torchvision", "timm", "pytorchcv" or "huggingface", or "auto" for the one that fits. With `head="new"`
    the layers that classify keep their initial values, and with them every fully connected layer from the
    first on that does not fit: for weights without a head, or with one of other classes.

    Raises UserError when the weights do not fit (it names the edition that they fit), are not finite, or the
    file cannot be used; the model is then unchanged.
    """
    known_sources = ("convatlas", *SOURCES)
    if source != "auto" and source not in known_sources:
        raise unknown_name("source", source, ["auto", *known_sources])
    if head not in ("keep", "new"):
        raise unknown_name("head", head, ["keep", "new"])
    if not isinstance(model, Network) or model.architecture is None:
        raise UsageError(
            "load_weights needs a network of create_model: "
            "it does not know the names of another module's tensors"
        )
    given: object = weights
    if not isinstance(given, str | os.PathLike | Mapping):
        raise wrong_type("the weights", given, "a file, a run's folder or a state dict (module.state_dict())")
    config = None
    if isinstance(weights, Mapping):
        name = "the state dict"
        tensors = tensors_of(weights)
    else:
        name = printable(weights)
        file = read_weight_file(Path(weights))
        tensors, network, config = file.content, file.architecture, file.config
        difference = architecture_difference(network, model.architecture) if network is not None else ""
        if network is not None and difference:
            raise UserError(
                f"{name} holds {network.name} with {difference}, which computes something else: build that"
            )
    match = best_match(model, tensors, name, source, head, config)
    copy_matched(model, tensors, match, name)
    return LoadedWeights(match.source, match.part, len(match.source_keys), match.ignored, match.new)


def best_match(
    model: Network,
    tensors: Mapping[str, Tensor],
    name: object,
    source: str = "auto",
    head: Head = "keep",
    config: Mapping[str, Any] | None = None,
) -> StateDictMatch:
    """The match of the library whose names fit best. Raises UserError where it is not exact: it names the
    nearest, and what would fit. `name` is that of the weights in messages."""
    assert model.architecture is not None
    if not tensors:
        raise UserError(
            f"{printable(name)} holds no tensors: expected a state_dict, names with their tensors"
        )
    sources = ("convatlas", *SOURCES) if source == "auto" else (source,)
    candidates = [match_state_dict(model, tensors, candidate, head, config) for candidate in sources]
    matches = [match for match in candidates if match is not None]
    if not matches:
        raise UsageError(_no_counterpart(source, model.architecture, config))
    best = min(matches, key=lambda match: match.distance)
    if not best.exact:
        hint = _new_head(model, tensors, best, head, config) or _fitting_build(
            model, tensors, sources, config
        )
        if not best.source_keys:
            raise UserError(
                f"{printable(name)} has no tensor of {_describe(model)} under any library's names: it holds "
                f"{list_keys(best.unexpected)}{hint}"
            )
        raise UserError(
            f"{printable(name)} does not fit {_describe(model)} under {best.source}'s names: {best}{hint}"
        )
    return best


def copy_matched(model: Network, tensors: Mapping[str, Tensor], match: StateDictMatch, name: object) -> None:
    """Copy the tensors of an exact match. Raises UserError, with the model unchanged, for values that are no
    trained weights."""
    for path in match.source_keys.values():
        tensor = tensors[path]
        if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_meta:
            raise UserError(
                f"{printable(name)} holds a sparse, quantised or empty tensor, {printable(path)}: "
                "expected plain ones"
            )
    non_finite = [
        path
        for path in match.source_keys.values()
        if tensors[path].is_floating_point() and not tensors[path].isfinite().all()
    ]
    if non_finite:
        raise UserError(
            f"{printable(name)} holds values that are not finite in {list_keys(non_finite)}: "
            "expected trained weights"
        )
    state = model.state_dict()
    with torch.no_grad():
        for key, path in match.source_keys.items():
            state[key].copy_(tensors[path])


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


def infer_arguments(
    model: Network, tensors: Mapping[str, Tensor], match: StateDictMatch
) -> dict[str, models.Argument]:
    """The number of classes and of input channels of the weights, from the shapes of the last and the first
    layer's; without those whose tensor is missing."""
    arguments: dict[str, models.Argument] = {}
    first = next(iter(model.state_dict()))
    for name, key, axis in (("num_classes", f"{model.classifier}.weight", 0), ("in_chans", first, 1)):
        tensor = tensors.get(match.source_keys.get(key, ""))
        if tensor is not None and tensor.dim() > axis:
            arguments[name] = tensor.shape[axis]
    return arguments


# Arguments that may differ from those of the training: a difference shows in the shapes of the weights, or
# changes no output of a trained network
_FREE_ARGUMENTS = ("num_classes", "in_chans", "image_size", "dropout", "aux")


def architecture_difference(trained: Architecture, target: Architecture) -> str:
    """The edition, arguments and edits of the network in a classifier's file (`trained`) that `target` does
    not have, though the same tensors might fit it; '' if there are none."""
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
    if trained.edits != target.edits:
        differing["edits"] = [str(edit) for edit in trained.edits]
    return ", ".join(f"{name}={value!r}" for name, value in differing.items())


def summarize_paths(paths: tuple[str, ...], part: str) -> str:
    """The tensors that were not needed, by the first name of their path that is not on the part's."""
    groups: dict[str, list[str]] = {}
    for path in paths:
        components = path.split(".")
        depth = 0
        for component, other in zip(components[:-1], part.split("."), strict=False):
            if component != other:
                break
            depth += 1
        groups.setdefault(".".join(components[: depth + 1]), []).append(path)
    texts = [
        printable(group) if members == [group] else f"{printable(group)} ({count_tensors(len(members))})"
        for group, members in groups.items()
    ]
    rest = len(texts) - MAX_SHOWN_GROUPS
    return ", ".join(texts[:MAX_SHOWN_GROUPS]) + (f" and {rest} more" if rest > 0 else "")


def count_tensors(count: int) -> str:
    return f"{count:,} tensor{'s' * (count != 1)}"


def list_layers(keys: tuple[str, ...]) -> str:
    """The layers of these keys, once each."""
    return list_keys(list(dict.fromkeys(key.rpartition(".")[0] for key in keys)))


def _new_head(
    model: Network,
    tensors: Mapping[str, Tensor],
    best: StateDictMatch,
    head: Head,
    config: Mapping[str, Any] | None,
) -> str:
    """The end of a sentence for weights that fit but for the head; '' for others."""
    if head == "new":
        return ""
    match = match_state_dict(model, tensors, best.source, "new", config)
    if match is None or not match.exact or not match.source_keys:
        return ""
    return f'; all but {list_layers(match.new)} fit: head="new" leaves these newly initialised'


def _fitting_build(
    model: Network,
    tensors: Mapping[str, Tensor],
    sources: tuple[str, ...],
    config: Mapping[str, Any] | None,
) -> str:
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
            candidate = models.create_model(
                architecture.name, edition=edition, edits=architecture.edits, **arguments
            )
        matches = [match_state_dict(candidate, tensors, source, config=config) for source in sources]
        if any(match is not None and match.exact for match in matches):
            changes = [f"edition={edition!r}"] * (edition != architecture.edition)
            changes += [f"aux={aux}"] * (aux is not None and aux != architecture.arguments["aux"])
            return f"; it fits {architecture.name} built with {', '.join(changes)}"
    return ""


def _no_counterpart(source: str, architecture: Architecture, config: Mapping[str, Any] | None = None) -> str:
    mapping = get_mapping(source, architecture.name, config)
    if mapping:
        return (
            f"{source}'s {architecture.name} computes something else than edition {architecture.edition}: "
            f"take {' or '.join(mapping.editions)}"
        )
    libraries = [name for name, mappings in SOURCES.items() if architecture.name in mappings]
    return f"{source} has no {architecture.name}: known are {', '.join(['convatlas', *libraries])}"


def _describe(model: Network) -> str:
    assert model.architecture is not None
    edits = describe_edits(model.architecture.edits)
    return f"{model.architecture.name}, edition {model.architecture.edition}{edits},"
