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
from convatlas.interop.ambiguous_networks import hidden_arguments
from convatlas.interop.state_dict_match import StateDictMatch, match_state_dict, rename_fn
from convatlas.interop.tensor_names import LIBRARIES, Variant, networks_with, variants
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
    """All builds that the tensors fit exactly, each library's own edition in place of others of it."""
    candidates: list[Candidate] = []
    for library in LIBRARIES:
        fitting = [
            candidate
            for variant in possible_variants(library, tensors, request)
            for candidate in _fitting_builds(variant, tensors, request)
        ]
        # A library's edition computes what it computes at any size; other editions may do so at one alone
        own = [candidate for candidate in fitting if candidate.architecture.edition == library]
        candidates += own or fitting
    return candidates


def possible_variants(library: str, tensors: Mapping[str, Tensor], request: Request) -> Iterator[Variant]:
    """The variants that may fit: all of a network that is named, else those in the index of names."""
    if request.model is not None:
        listed = variants(request.model, library)
    else:
        listed = (variant for variant in networks_with(tensors) if variant.library == library)
    for variant in listed:
        known = models.get_entry(variant.name).default_arguments(variant.edition)
        if request.edition in (None, variant.edition) and all(key in known for key in request.arguments):
            yield variant


def _fitting_builds(variant: Variant, tensors: Mapping[str, Tensor], request: Request) -> Iterator[Candidate]:
    """The builds of one variant that the tensors fit exactly: at most one for each choice of the hidden
    arguments."""
    hidden = dict(hidden_arguments(variant.library, variant.name))
    hidden |= {key: (request.arguments[key],) for key in hidden if key in request.arguments}
    for values in product(*hidden.values()):
        fixed = with_arguments(variant, dict(zip(hidden, values, strict=True)) | dict(request.arguments))
        for shaped in shaped_variants(fixed, tensors, request):
            candidate = compare(shaped, tensors, request.config)
            if candidate is not None and candidate.match.exact:
                yield candidate
                break


def with_arguments(variant: Variant, arguments: Mapping[str, Any]) -> Variant:
    """The variant with these arguments besides its own, and in their place where it has them."""
    return variant._replace(arguments={**variant.arguments, **arguments})


def shaped_variants(variant: Variant, tensors: Mapping[str, Tensor], request: Request) -> Iterator[Variant]:
    """Variants to try, the likeliest first: this one, with arguments that shapes show besides its own."""
    default = _build(variant)
    if default is None:
        return
    assert default.architecture is not None
    rename = rename_fn(variant.library, default.architecture, request.config)
    if rename is None:
        return
    pairs = [
        (key, tensor.shape, tensors[name].shape)
        for key, tensor in default.state_dict().items()
        if (name := rename(key, default)) in tensors
    ]
    shown = {}
    shapes = {key: shape for key, _, shape in pairs}
    first = next(iter(default.state_dict()))
    for argument, key, axis in (("num_classes", f"{default.classifier}.weight", 0), ("in_chans", first, 1)):
        if key in shapes and len(shapes[key]) > axis and shapes[key][axis] > 0:
            shown[argument] = shapes[key][axis]
    start = variant._replace(arguments={**shown, **variant.arguments})
    sizes: list[dict[str, int]] = [{}]
    if request.size is not None and "image_size" not in variant.arguments:
        sizes.append({"image_size": request.size})
    yield from (with_arguments(start, size) for size in sizes)
    if not _differs_in_layers(pairs, default.classifier):
        return
    ratios = Counter(
        shape[0] / expected[0]
        for key, expected, shape in pairs
        if len(expected) == 4 and len(shape) == 4 and not key.startswith(default.classifier)
    )
    widths = [ratio for ratio, _ in ratios.most_common(3) if 0 < ratio <= 64]
    known = models.get_entry(variant.name).default_arguments(variant.edition)
    choices = {
        "width": dict.fromkeys((*widths, *USUAL_WIDTHS)),
        "groups": dict.fromkeys((known.get("groups"), *GROUPS)),
        "reduction": dict.fromkeys((known.get("reduction"), *REDUCTIONS)),
    }
    free = {key: values for key, values in choices.items() if key in known and key not in variant.arguments}
    for values in product(*free.values()):
        for size in sizes:
            yield with_arguments(start, size | dict(zip(free, values, strict=True)))


def _differs_in_layers(pairs: list[tuple[str, torch.Size, torch.Size]], classifier: str) -> bool:
    """Whether a shape differs in a way that the numbers of classes and channels do not explain."""
    return any(
        expected[1:] != shape[1:] or (expected[:1] != shape[:1] and not key.startswith(classifier))
        for key, expected, shape in pairs[1:]
    )


def _build(variant: Variant) -> Network | None:
    """The network on meta tensors; None for arguments that it cannot take."""
    try:
        with torch.device("meta"):
            return models.create_model(variant.name, edition=variant.edition, **variant.arguments)
    except (UsageError, ValueError, RuntimeError):  # such as channels that groups do not divide
        return None


def compare(
    variant: Variant, tensors: Mapping[str, Tensor], config: Mapping[str, Any] | None = None
) -> Candidate | None:
    """The network of a variant with its match; None for arguments that it cannot take, and where the library
    has no network that computes the same."""
    network = _build(variant)
    if network is None:
        return None
    match = match_state_dict(network, tensors, variant.library, config=config)
    return Candidate(network, match) if match is not None else None
