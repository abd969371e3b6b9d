"""Which network of the atlas a state dict is for: by the names and shapes of its tensors, on meta tensors.

Where several builds fit that compute different things, the weights do not say which of them they were trained
in: the user must.
"""

from collections.abc import Iterable, Mapping
from itertools import islice

import torch
from torch import Tensor

from convatlas import models
from convatlas.errors import UsageError, UserError, printable
from convatlas.interop.ambiguous_networks import library_name
from convatlas.interop.candidates import (
    Candidate,
    Request,
    compare,
    exact_candidates,
    possible_variants,
    shaped_variants,
    with_arguments,
)
from convatlas.interop.operations import differing_arguments, list_operations
from convatlas.interop.state_dict_match import SOURCES
from convatlas.interop.tensor_names import LIBRARIES, Variant, networks_with

IMAGE_SIDES = range(32, 513, 16)  # tried for networks whose first linear layer depends on the size
MAX_TRIED = 12  # builds of a network that fits none, to name the nearest


def identify(tensors: Mapping[str, Tensor], file: object, request: Request) -> Candidate:
    """The one network that the tensors are for, with the arguments that their shapes show.

    Raises UsageError where several fit that compute different things, and names the options that decide;
    UserError where none fits.
    """
    candidates = exact_candidates(tensors, request)
    if not candidates:
        raise _misfit(tensors, file, request)
    groups = _group_by_operations(candidates, request)
    if len(groups) > 1:
        raise UsageError(_ambiguity(groups, file, request))
    return groups[0][0]


def _group_by_operations(candidates: list[Candidate], request: Request) -> list[list[Candidate]]:
    """The candidates, those together that compute the same from the same file."""
    if len(candidates) == 1:
        return [candidates]
    groups: list[list[Candidate]] = []
    for candidate in candidates:
        for group in groups:
            if not _differences(group[0], candidate, request):
                group.append(candidate)
                break
        else:
            groups.append([candidate])
    return groups


def _differences(first: Candidate, second: Candidate, request: Request) -> list[str]:
    """In what two candidates differ, in words; empty where they compute the same."""
    if first.architecture == second.architecture and first.match.source_keys == second.match.source_keys:
        return []  # two libraries with the same names
    lists = []
    for candidate in (first, second):
        _, height, width = models.get_entry(candidate.architecture.name).input
        size = candidate.network.fixed_size or ((request.size,) * 2 if request.size else (height, width))
        try:
            lists.append(list_operations(candidate.network, candidate.match.source_keys, size))
        except UsageError:  # it takes no images of this size, which the other does
            return ["image size"]
    return differing_arguments(*lists)


def _ambiguity(groups: list[list[Candidate]], file: object, request: Request) -> str:
    first, *others = (group[0] for group in groups)
    differences = dict.fromkeys(name for other in others for name in _differences(first, other, request))
    choices = []
    for candidate in (first, *others):
        options = _options(candidate, [first, *others], request)
        name = library_name(candidate.match.source, candidate.architecture)
        choices.append(f"{options} ({candidate.match.source}'s {name})" if name else options)
    return (
        f"{printable(file)} fits {len(groups)} networks with equal names and shapes that differ in "
        f"{' and '.join(differences)}, and does not say which it was trained in: say {' or '.join(choices)}"
    )


def _options(candidate: Candidate, all_candidates: Iterable[Candidate], request: Request) -> str:
    """The options that choose this candidate among all."""
    mine = candidate.architecture
    rivals = [other.architecture for other in all_candidates if other is not candidate]
    options = []
    if request.model is None and any(rival.name != mine.name for rival in rivals):
        options.append(f"--model {mine.name}")
    same_name = [rival for rival in rivals if rival.name == mine.name]
    if any(rival.edition != mine.edition for rival in same_name):
        options.append(f"--edition {mine.edition}")
    same_edition = [rival for rival in same_name if rival.edition == mine.edition]
    for key, value in mine.arguments.items():
        if any(rival.arguments.get(key) != value for rival in same_edition):
            options.append(f"--set {key}={str(value).lower() if isinstance(value, bool) else value}")
    return " ".join(options)


def _misfit(tensors: Mapping[str, Tensor], file: object, request: Request) -> UserError:
    """The error for weights that fit no build; it names the nearest, or what has to be said."""
    libraries = ", ".join(SOURCES)
    if request.model is None and not networks_with(tensors):
        return UserError(
            f"{printable(file)} has the tensor names of no network of the atlas, neither under {libraries} "
            "nor the atlas's own: name its network with --model to see what differs"
        )
    tried = [
        with_arguments(variant, request.arguments)
        for library in LIBRARIES
        for variant in possible_variants(library, tensors, request)
    ]
    if not tried:
        return _unknown_request(tensors, file, request)
    compared = [
        candidate
        for variant in tried
        for shaped in islice(shaped_variants(variant, tensors, Request()), MAX_TRIED)
        if (candidate := compare(shaped, tensors)) is not None
    ]
    if not compared:
        first = tried[0]
        with torch.device("meta"):  # raises UsageError for a value that the network cannot take
            models.create_model(first.name, edition=first.edition, **first.arguments)
        return UserError(
            f"{printable(file)} fits no build of the atlas with these arguments: leave out --set"
        )
    nearest = min(compared, key=lambda candidate: candidate.match.distance)
    if request.edition is not None:
        others = exact_candidates(tensors, Request(request.model, None, request.arguments, request.size))
        if others:
            fitting = others[0].architecture.edition
            return UserError(
                f"{printable(file)} holds {others[0].match.source}'s {request.model}, which is edition "
                f"{fitting} and not {request.edition}: say --edition {fitting}"
            )
    architecture = nearest.architecture
    name = request.model or architecture.name
    if request.model is not None:
        others = exact_candidates(tensors, Request(size=request.size))
        fitting_names = sorted({other.architecture.name for other in others} - {name})
        if fitting_names:
            return UserError(
                f"{printable(file)} fits no edition of {name}, but {' and '.join(fitting_names)}: leave out "
                "--model"
            )
    side = _image_side(nearest, tensors)
    hint = (
        f"; it fits an image_size of {side}: say --set image_size={side}, or the size it had" if side else ""
    )
    return UserError(
        f"{printable(file)} fits no edition of {name}; the nearest is {architecture.edition} under "
        f"{nearest.match.source}'s names: {nearest.match}{hint}"
    )


def _unknown_request(tensors: Mapping[str, Tensor], file: object, request: Request) -> UserError:
    """The error for an edition or an argument that no network of these names has."""
    if request.model is not None:
        # raises for what does not exist
        models.get_architecture(request.model, request.edition or "paper", **dict(request.arguments))
        return UserError(f"no library has {request.model}, edition {request.edition}: leave out --edition")
    names = sorted({variant.name for variant in networks_with(tensors)})
    options = [f"edition {request.edition}"] if request.edition else []
    options += [f"{key}={value}" for key, value in request.arguments.items()]
    return UsageError(
        f"{printable(file)} has the tensor names of {' and '.join(names)}, which cannot be built with "
        f"{' and '.join(map(printable, options))}: correct --edition or --set"
    )


def _image_side(nearest: Candidate, tensors: Mapping[str, Tensor]) -> int | None:
    """The smallest side of images for which the shapes fit, where they alone do not."""
    architecture = nearest.architecture
    if nearest.match.missing or nearest.match.unexpected or architecture.arguments.get("image_size"):
        return None
    for side in IMAGE_SIDES:
        arguments = dict(architecture.arguments) | {"image_size": side}
        variant = Variant(nearest.match.source, architecture.name, architecture.edition, arguments)
        resized = compare(variant, tensors)
        if resized is not None and resized.match.exact:
            return side
    return None
