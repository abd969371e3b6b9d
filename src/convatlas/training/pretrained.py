"""Weights that a training begins from: a classifier of ours or another library's file; all of it, or all but what names the classes."""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from convatlas import models
from convatlas.classifier import Classifier, load
from convatlas.errors import UsageError, UserError, printable
from convatlas.interop import import_classifier
from convatlas.interop.load_weights import architecture_difference
from convatlas.interop.weight_file import read_weight_file
from convatlas.models import Architecture, Network
from convatlas.storage.records import Record


class Initial(Record, frozen=True, kw_only=True):
    """`head` is the layer that names the classes, and those of auxiliary heads: kept, or new; auto keeps it where the classes are the
    same. `standardiser` are the mean and deviation of pixels: those that the weights are used to, or measured anew; auto takes theirs
    where they hold for images of any size. `sha256`, of the file, is filled in when the run is completed."""

    file: str
    head: Literal["auto", "kept", "new"] = "auto"
    standardiser: Literal["auto", "theirs", "measured"] = "auto"
    sha256: str = ""


def resolve_pretrained(initial: Initial, architecture: Architecture, classes: Sequence[str]) -> Initial:
    """With everything decided. Raises UsageError when the head should be kept and lacks a class, UserError for a file of no use."""
    donor = _read(initial, architecture)
    head = initial.head
    if head == "auto":
        head = "kept" if set(donor.metadata.classes) == set(classes) else "new"
    lacking = [name for name in classes if name not in donor.metadata.classes]
    if head == "kept" and lacking:
        raise UsageError(
            f"{printable(initial.file)} has no class {printable(lacking[0])!r} ({len(lacking)} of {len(classes)} are not among its "
            f"{len(donor.metadata.classes)}): start with a new head, --set initial.head=new"
        )
    standardiser = initial.standardiser
    if standardiser == "auto":
        fits = donor.normalizer.mean.shape == (architecture.arguments["in_chans"], 1, 1)
        standardiser = "theirs" if fits else "measured"
    return initial.replace(head=head, standardiser=standardiser, sha256=_sha256(initial.file))


def load_pretrained(initial: Initial, model: Network, classes: Sequence[str]) -> Classifier:
    """Copy the weights into `model`, and return the classifier that they came from. Raises UserError when they do not fit, or are no
    longer those of the run."""
    assert model.architecture is not None
    donor = _read(initial, model.architecture)
    theirs = donor.model.state_dict()
    absent = tuple(f"{head}." for head in model.heads if not any(name.startswith(f"{head}.") for name in theirs))
    naming = tuple(f"{path}." for path in _classification_layers(model))
    kept = torch.tensor([donor.metadata.classes.index(name) for name in classes]) if initial.head == "kept" else None
    chosen: dict[str, Tensor] = {}
    for name, mine in model.state_dict().items():
        if name.startswith(absent) or (name.startswith(naming) and kept is None):
            continue
        source = theirs.get(name)
        if source is not None and name.startswith(naming) and kept is not None and len(source) == len(donor.metadata.classes):
            source = source[kept]
        if source is None or source.shape != mine.shape:
            raise UserError(
                f"{printable(initial.file)} does not fit {model.architecture.name}: {name} should have shape {tuple(mine.shape)}, found "
                f"{tuple(source.shape) if source is not None else 'none'}; build the network with the width and the channels of the weights"
            )
        chosen[name] = source
    model.load_state_dict(chosen, strict=False)
    return donor


def _classification_layers(model: Network) -> Iterator[str]:
    """The paths of the layers that name the classes: the last, and the last of every auxiliary head."""
    yield model.classifier
    for head in model.heads:
        yield [f"{head}.{path}" for path, layer in model.get_submodule(head).named_modules() if isinstance(layer, nn.Linear)][-1]


def architecture_of(file: str, name: str, edition: str) -> Architecture:
    """The network that weights are for, where the file says so: with their width and whatever else it was built with."""
    network = read_weight_file(Path(file)).network
    if network is None or (network.name, network.edition) != (name, edition):
        return models.get_architecture(name, edition)
    return models.get_architecture(name, edition, **{k: v for k, v in network.arguments.items() if k not in ("num_classes", "in_chans")})


def _read(initial: Initial, architecture: Architecture) -> Classifier:
    if initial.sha256 and _sha256(initial.file) != initial.sha256:
        raise UserError(f"{printable(initial.file)} is not the file that this run began from: its SHA-256 differs; put that back")
    path = Path(initial.file)
    network = read_weight_file(path).network
    if network is None:
        return import_classifier(path, architecture.name, architecture.edition)
    if network.name != architecture.name:
        raise UsageError(f"{printable(initial.file)} holds {network.name}: it cannot begin {architecture.name}")
    if other := architecture_difference(network, architecture):
        raise UsageError(f"{printable(initial.file)} holds {network.name} with {other}, which computes something else: build that")
    return load(path)


def _sha256(file: str) -> str:
    path = Path(file)
    path = path / "model.safetensors" if path.is_dir() else path
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"cannot read {printable(path)}: {error.strerror}") from None
