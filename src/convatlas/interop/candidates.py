"""The builds of the atlas that a state dict may be for: by the names of its tensors, then by their shapes."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import torch
from torch import Tensor

from convatlas import models
from convatlas.errors import UsageError
from convatlas.interop.state_dict_match import StateDictMatch, match_state_dict, rename_fn
from convatlas.interop.tensor_names import LIBRARIES, networks_with, variants
from convatlas.interop.twins import hidden_choices
from convatlas.models import Architecture, Network

USUAL_WIDTHS = (0.25, 0.5, 0.75, 1.25, 1.5, 2.0)
REDUCTIONS = (2, 4, 8, 32)
GROUPS = (1, 2, 3, 4, 8)


@dataclass(frozen=True)
class Candidate:
    """A network, on meta tensors, and how the state dict compares with it."""

    network: Network
    match: StateDictMatch

    @property
    def architecture(self) -> Architecture:
        assert self.network.architecture is not None
        return self.network.architecture


@dataclass(frozen=True)
class Request:
    """What the user has said about a file of weights: its network, edition and arguments, where known."""

    model: str | None = None
    edition: str | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    size: int | None = None  # of the images, in pixels a side
    config: Mapping[str, Any] | None = None  # the config.json beside the weights


def exact_candidates(tensors: Mapping[str, Tensor], request: Request) -> list[Candidate]:
    """All builds that the tensors fit exactly, each library's own edition before others of it."""
    candidates: list[Candidate] = []
    for library in LIBRARIES:
        by_edition: dict[str, list[Candidate]] = {}
        for name, edition, arguments in variants_of(library, tensors, request):
            fitting = _fit(name, edition, arguments, library, tensors, request)
            by_edition.setdefault(edition if edition == library else "", []).extend(fitting)
        # A library's edition computes what it computes at any size; other editions may do so at one alone
        candidates += by_edition.get(library) or by_edition.get("", [])
    return candidates


def variants_of(
    library: str, tensors: Mapping[str, Tensor], request: Request
) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(name, edition, arguments) of builds that may fit: all of a network that is named, else those in the
    index of names."""
    if request.model is not None:
        listed = ((request.model, *variant) for variant in variants(request.model, library))
    else:
        listed = (variant[1:] for variant in networks_with(tensors) if variant[0] == library)
    for name, edition, arguments in listed:
        known = models.get_entry(name).default_arguments(edition)
        if request.edition in (None, edition) and all(key in known for key in request.arguments):
            yield name, edition, arguments


def _fit(
    name: str,
    edition: str,
    arguments: dict[str, Any],
    library: str,
    tensors: Mapping[str, Tensor],
    request: Request,
) -> Iterator[Candidate]:
    """The builds of one variant that the tensors fit exactly."""
    hidden = {
        key: (request.arguments[key],) if key in request.arguments else values
        for key, values in hidden_choices(library, name).items()
    }
    for values in product(*hidden.values()):
        fixed = arguments | dict(zip(hidden, values, strict=True)) | dict(request.arguments)
        for shaped in shape_arguments(name, edition, fixed, library, tensors, request.size, request.config):
            candidate = compare(name, edition, shaped, library, tensors, request.config)
            if candidate is not None and candidate.match.exact:
                yield candidate
                break


def shape_arguments(
    name: str,
    edition: str,
    fixed: dict[str, Any],
    library: str,
    tensors: Mapping[str, Tensor],
    size: int | None,
    config: Mapping[str, Any] | None = None,
) -> Iterator[dict[str, Any]]:
    """Arguments to try, the likeliest first: those that are fixed, with those that shapes show."""
    default = _build(name, edition, fixed)
    known = models.get_entry(name).default_arguments(edition)
    rename = rename_fn(library, default.architecture, config) if default and default.architecture else None
    if default is None or rename is None:
        return
    pairs = [
        (key, tensor.shape, tensors[rename(key, default)].shape)
        for key, tensor in default.state_dict().items()
        if rename(key, default) in tensors
    ]
    shown = {}
    keys = {key: shape for key, _, shape in pairs}
    first = next(iter(default.state_dict()))
    for argument, key, axis in (("num_classes", f"{default.classifier}.weight", 0), ("in_chans", first, 1)):
        if key in keys and len(keys[key]) > axis and keys[key][axis] > 0:
            shown[argument] = keys[key][axis]
    start = shown | fixed
    yield start
    resized = {"image_size": size} if size is not None and "image_size" not in fixed else {}
    if resized:
        yield start | resized
    ratios = Counter(
        shape[0] / expected[0]
        for key, expected, shape in pairs
        if len(expected) == 4 and len(shape) == 4 and not key.startswith(default.classifier)
    )
    widths = [ratio for ratio, _ in ratios.most_common(3)]
    choices = {
        "width": dict.fromkeys((*(width for width in widths if 0 < width <= 64), *USUAL_WIDTHS)),
        "groups": dict.fromkeys((known.get("groups"), *GROUPS)),
        "reduction": dict.fromkeys((known.get("reduction"), *REDUCTIONS)),
    }
    free = {key: values for key, values in choices.items() if key in known and key not in fixed}
    if not _differs_in_layers(pairs, default.classifier):
        return
    for values in product(*free.values()):
        yield start | dict(zip(free, values, strict=True))
        if resized:
            yield start | resized | dict(zip(free, values, strict=True))


def _differs_in_layers(pairs: list[tuple[str, torch.Size, torch.Size]], classifier: str) -> bool:
    """Whether a shape differs in a way that the numbers of classes and channels do not explain."""
    return any(
        expected[1:] != shape[1:] or (expected[:1] != shape[:1] and not key.startswith(classifier))
        for key, expected, shape in pairs[1:]
    )


def _build(name: str, edition: str, arguments: Mapping[str, Any]) -> Network | None:
    """The network on meta tensors; None for arguments that it cannot take."""
    try:
        with torch.device("meta"):
            return models.create_model(name, edition=edition, **arguments)
    except (UsageError, ValueError, RuntimeError):  # such as channels that groups do not divide
        return None


def compare(
    name: str,
    edition: str,
    arguments: Mapping[str, Any],
    library: str,
    tensors: Mapping[str, Tensor],
    config: Mapping[str, Any] | None = None,
) -> Candidate | None:
    network = _build(name, edition, arguments)
    match = match_state_dict(network, tensors, library, config=config) if network is not None else None
    return Candidate(network, match) if network is not None and match is not None else None
