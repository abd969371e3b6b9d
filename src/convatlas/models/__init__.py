"""The networks: one file a paper. A name gives a `ModelEntry`, an entry builds an `nn.Module`."""

import fnmatch
import json
import math
from functools import cache
from importlib.resources import files
from typing import Any

from torch import nn

from convatlas.errors import UsageError, unknown_name, wrong_type
from convatlas.models import (
    alexnet,
    bn_inception,
    fcn,
    googlenet,
    inception,
    lenet5,
    mobilenet,
    resnet,
    resnet_v2,
    senet,
    shufflenet,
    shufflenet_v2,
    unet,
    vgg,
    xception,
    zfnet,
)
from convatlas.models.edits.apply import apply as apply_edits
from convatlas.models.edits.apply import check_edits
from convatlas.models.features import PENULTIMATE, features
from convatlas.models.fully_convolutional import FullyConvolutional
from convatlas.models.imported import imported_entry, is_import_path, module_sha256
from convatlas.models.network import (
    Architecture,
    Argument,
    ModelEntry,
    Network,
    TrainingOutputs,
    height_and_width,
)
from convatlas.runtime.trust import trust_factory

__all__ = [
    "PENULTIMATE",
    "Architecture",
    "Argument",
    "ModelEntry",
    "Network",
    "TrainingOutputs",
    "build",
    "create_model",
    "editions",
    "features",
    "get_architecture",
    "get_entry",
    "golden_counts",
    "golden_records",
    "is_import_path",
    "list_models",
    "to_dense",
]

_PAPERS = (  # in the order of their years
    *(lenet5, alexnet, zfnet, vgg, googlenet, bn_inception, inception, resnet, fcn, unet),
    *(resnet_v2, xception, senet, mobilenet, shufflenet, shufflenet_v2),
)
_ENTRIES: dict[str, ModelEntry] = {entry.name: entry for paper in _PAPERS for entry in paper.ENTRIES}


def list_models(pattern: str = "*") -> list[str]:
    """The names of the atlas that match a shell pattern, papers in the order of their years."""
    return [name for name in _ENTRIES if fnmatch.fnmatchcase(name, pattern)]


def get_entry(name: str, edition: str = "paper") -> ModelEntry:
    """The entry of a network.

    Raises UsageError for a name or an edition that does not exist; the message names the nearest. A factory
    of the user's own is imported where it is trusted.
    """
    if is_import_path(name) and name.partition(":")[0] not in _ENTRIES:  # not NAME:EDITION, a slip
        entry = imported_entry(name)
    elif not isinstance(name, str) or name not in _ENTRIES:
        raise unknown_name("network", name, _ENTRIES)
    else:
        entry = _ENTRIES[name]
    if edition not in entry.editions:
        raise unknown_name(f"edition of {name}", edition, entry.editions)
    return entry


def editions(name: str) -> list[str]:
    """`paper`, and the named editions that other libraries' weights need."""
    return list(get_entry(name).editions)


@cache
def golden_records() -> tuple[dict[str, Any], ...]:
    """The exact counts: records of model, edition (absent: paper), arguments, input, params, macs and source.

    The tests compare every network with its records; the list of networks and the tables of the documentation
    are made from them.
    """
    return tuple(json.loads(files(__name__).joinpath("golden.json").read_text()))


def golden_counts(name: str) -> dict[str, Any]:
    """The golden record of a network as its paper prints it."""
    return next(
        record
        for record in golden_records()
        if record["model"] == name and not record["arguments"] and "edition" not in record
    )


_ARGUMENT_TYPES: dict[str, tuple[Any, str]] = {
    "num_classes": (int, "a whole number"),
    "in_chans": (int, "a whole number"),
    "width": (int | float, "a number"),
    "dropout": (int | float, "a number"),
    "reduction": (int, "a whole number"),
    "gate_bias": (int | float, "a number"),
    "shortcut": (str | None, "A, B or C"),
    "aux": (bool, "true or false"),
    "excitation_bias": (bool, "true or false"),
}


# No useful network has more. A file that claims more would cost memory and time before its weights show the
# error
_MAX_ARGUMENTS: dict[str, float] = {
    "num_classes": 1_000_000,
    "in_chans": 10_000,
    "width": 64,
    "reduction": 10_000,
}
_MAX_IMAGE_SIDE = 1 << 14  # pixels

# Arguments that a run takes from its data and its recipe where the user gives none. They are None until then,
# so that a value that equals the paper's is still the user's
OPEN_ARGUMENTS = ("num_classes", "in_chans", "aux")


def get_architecture(name: str, edition: str = "paper", *, edits: Any = (), **arguments: Any) -> Architecture:
    """The network with all its arguments. Those left out have the paper's values, or None for
    `OPEN_ARGUMENTS`, which a run decides and `build` takes for the paper's.

    Raises UsageError for an argument that this network does not have, or a value that it cannot take.
    """
    defaults = get_entry(name, edition).default_arguments(edition)
    for argument, value in arguments.items():
        if argument in ("pretrained", "weights"):
            raise UsageError(
                f"no weights come with {name}: leave {argument} out, and load a file of your own with "
                "ca.load_weights(model, FILE)"
            )
        if argument not in defaults:
            raise unknown_name(f"argument of {name}", argument, defaults)
        default = defaults[argument]
        if value is None and argument in OPEN_ARGUMENTS:
            continue
        types, expected = _ARGUMENT_TYPES.get(argument) or (type(default), type(default).__name__)
        if default is not None and not (
            isinstance(value, types) and isinstance(value, bool) == (types is bool)
        ):
            raise UsageError(f"{argument} of {name} should be {expected}, not {value!r}")
        if argument in ("num_classes", "in_chans", "width", "reduction") and not 0 < value < math.inf:
            raise UsageError(f"{argument} of {name} should be greater than 0, not {value}")
        if argument in _MAX_ARGUMENTS and value > _MAX_ARGUMENTS[argument]:
            raise UsageError(
                f"{argument} of {name} should be at most {_MAX_ARGUMENTS[argument]:,}, not {value:,}"
            )
        if argument == "image_size" and max(height_and_width(value, (1, 1))) > _MAX_IMAGE_SIDE:
            raise UsageError(
                f"image_size of {name} should be at most {_MAX_IMAGE_SIDE:,} a side, not {value}"
            )
        if argument == "dropout" and not 0 <= value < 1:
            raise UsageError(f"dropout of {name} should be at least 0 and below 1, not {value}")
    open_arguments = {argument: None for argument in OPEN_ARGUMENTS if argument in defaults}
    check_edits(edits)
    sha256 = module_sha256(name) if is_import_path(name) else ""
    return Architecture(name, edition, defaults | open_arguments | arguments, tuple(edits), sha256)


def build(architecture: Architecture) -> Network:
    """The module that an architecture describes, with its paper's initialisation from torch's global seed.

    Raises UsageError for an argument or an edit that this network cannot take.
    """
    checked = get_architecture(architecture.name, architecture.edition, **architecture.arguments)
    entry = get_entry(checked.name, checked.edition)
    defaults = entry.default_arguments(checked.edition)
    arguments = {
        name: defaults[name] if value is None and name in OPEN_ARGUMENTS else value
        for name, value in checked.arguments.items()
    }
    network = entry.builders[checked.edition](**arguments)
    network.architecture = Architecture(
        checked.name, checked.edition, arguments, source_sha256=checked.source_sha256
    )
    size = network.fixed_size or height_and_width(arguments["image_size"], entry.input[1:])  # type: ignore[arg-type]
    network.input_shape = (network.in_chans, *size)
    if architecture.edits:
        apply_edits(network, architecture.edits)
    return network


def create_model(name: str, edition: str = "paper", *, edits: Any = (), **arguments: Any) -> Network:
    """Build a network with its paper's initialisation, from torch's global seed. `name` may be a factory of
    your own, `package.module:function`, which is imported.

    Every network takes num_classes, in_chans, width, image_size and dropout; some take more (`shortcut`). All
    default to the paper. `edits` change it, in their order: layers that stay have the weights that the seed
    gives them without edits. Raises UsageError for an argument that this network does not have, a value that
    it cannot take, and an edit that touches nothing.
    """
    trust_factory(name)
    return build(get_architecture(name, edition, edits=edits, **arguments))


def to_dense(classifier: Any) -> FullyConvolutional:
    """A classifier as convolutions, for a map of class scores: images (n, in_chans, h, w), normalised, of at
    least its own size -> (n, num_classes, rows, columns), 1x1 at its own size.

    `classifier` is a network of `create_model` or a `Classifier` around one. The module shares its layers and
    its weights; put it in eval mode to predict. Its own size is that of the classifier's preprocessing, or
    the network's `image_size`, or its paper's. Raises UsageError for what is neither, and for a network
    without a vector of class scores.
    """
    network = classifier if isinstance(classifier, nn.Module) else getattr(classifier, "model", None)
    if not isinstance(network, Network) or network.architecture is None:
        raise wrong_type("the classifier", classifier, "a network of create_model or a Classifier around one")
    if network is classifier:
        entry = get_entry(network.architecture.name, network.architecture.edition)
        image_size: Any = network.architecture.arguments.get("image_size")
        size = height_and_width(image_size, entry.input[1:])
    else:
        size = classifier.metadata.preprocessing.input_size
    return FullyConvolutional(network, size)
