"""Weights that a training starts from: a classifier of ours or another library's file, with its
classification layers or new ones.
"""

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from convatlas import models
from convatlas.classifier import Classifier
from convatlas.errors import UsageError, UserError, printable
from convatlas.interop.import_classifier import classifier_of
from convatlas.interop.load_weights import architecture_difference
from convatlas.interop.weight_file import WeightFile, read_weight_file
from convatlas.models import Architecture, Network
from convatlas.names import resolve_path
from convatlas.storage.cache import file_sha256
from convatlas.training.run import Pretrained


class PretrainedFile:
    """A weight file, read and hashed once."""

    def __init__(self, path: str):
        self.path = Path(resolve_path(path))
        self.name = printable(path)

    @cached_property
    def sha256(self) -> str:
        """Raises UserError for a file that cannot be read."""
        file = self.path / "model.safetensors" if self.path.is_dir() else self.path
        try:
            return file_sha256(file)
        except OSError as error:
            raise UserError(f"cannot read {printable(file)}: {error.strerror}") from None

    @cached_property
    def content(self) -> WeightFile:
        return read_weight_file(self.path)

    def architecture_of(self, name: str, edition: str) -> Architecture:
        """The network of this name, with the arguments of the weights where the file has them."""
        network = self.content.architecture
        if network is None or (network.name, network.edition) != (name, edition):
            return models.get_architecture(name, edition)
        arguments = {
            key: value for key, value in network.arguments.items() if key not in ("num_classes", "in_chans")
        }
        return models.get_architecture(name, edition, **arguments)

    def classifier_for(self, architecture: Architecture) -> Classifier:
        """The file as a classifier. Raises UsageError where it holds a network that cannot start this one."""
        model_file = self.content.model_file
        if model_file is None:
            return classifier_of(
                self.content, self.path, self.sha256, architecture.name, architecture.edition
            )
        network = model_file.metadata.network
        if network.name != architecture.name:
            raise UsageError(
                f"{self.name} holds {network.name}: it cannot be the start of {architecture.name}"
            )
        if difference := architecture_difference(network, architecture):
            raise UsageError(
                f"{self.name} holds {network.name} with {difference}, which computes something else: build "
                "that network"
            )
        return Classifier(*model_file)


def resolve_pretrained(
    pretrained: Pretrained,
    file: PretrainedFile,
    architecture: Architecture,
    classes: Sequence[str],
) -> tuple[Pretrained, Classifier]:
    """Everything decided, and the classifier of the file.

    Raises UsageError when the head is to be kept and lacks a class, UserError for a file that cannot be used,
    or that is no longer the one of the run.
    """
    if pretrained.sha256 and file.sha256 != pretrained.sha256:
        raise UserError(
            f"{file.name} is not the file that this run started from: its SHA-256 differs; restore that file"
        )
    classifier = file.classifier_for(architecture)
    known = classifier.metadata.classes
    head = pretrained.head
    if head == "auto":
        head = "keep" if set(known) == set(classes) else "reinit"
    missing = [name for name in classes if name not in known]
    if head == "keep" and missing:
        raise UsageError(
            f"{file.name} has no class '{printable(missing[0])}' ({len(missing)} of {len(classes)} are not "
            f"among its {len(known)}): start with a new head, --set pretrained.head=reinit"
        )
    normalization = pretrained.normalization
    if normalization == "auto":
        any_size = classifier.normalizer.mean.shape == (architecture.arguments["in_chans"], 1, 1)
        normalization = "pretrained" if any_size else "dataset"
    return pretrained.replace(head=head, normalization=normalization, sha256=file.sha256), classifier


def load_pretrained(
    pretrained: Pretrained, classifier: Classifier, model: Network, classes: Sequence[str]
) -> None:
    """Copy the classifier's weights into `model`. Raises UserError when they do not fit."""
    assert model.architecture is not None
    known = classifier.metadata.classes
    state = classifier.model.state_dict()
    heads_absent = tuple(
        f"{head}." for head in model.heads if not any(name.startswith(f"{head}.") for name in state)
    )
    classification_layers = tuple(f"{path}." for path in _classification_layers(model))
    rows = torch.tensor([known.index(name) for name in classes]) if pretrained.head == "keep" else None
    copied: dict[str, Tensor] = {}
    for name, target in model.state_dict().items():
        classifies = name.startswith(classification_layers)
        if name.startswith(heads_absent) or (classifies and rows is None):
            continue
        source = state.get(name)
        if source is not None and classifies and rows is not None and len(source) == len(known):
            source = source[rows]
        if source is None or source.shape != target.shape:
            shape = tuple(source.shape) if source is not None else "none"
            raise UserError(
                f"{printable(pretrained.file)} does not fit {model.architecture.name}: {name} should have "
                f"shape {tuple(target.shape)}, not {shape}; build the network with the width and the "
                "channels of the weights"
            )
        copied[name] = source
    model.load_state_dict(copied, strict=False)


def _classification_layers(model: Network) -> Iterator[str]:
    """The paths of the layers that give class scores: the last, and every auxiliary head's last."""
    yield model.classifier
    for head in model.heads:
        modules = model.get_submodule(head).named_modules()
        yield [f"{head}.{path}" for path, layer in modules if isinstance(layer, nn.Linear)][-1]
