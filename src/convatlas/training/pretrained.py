"""Weights that a training starts from: a classifier of ours or another library's file, with its
classification layers or new ones.
"""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from convatlas import models
from convatlas.classifier.model_file import ModelFile
from convatlas.data.transforms.normalize import Normalizer
from convatlas.errors import UsageError, UserError, printable
from convatlas.interop.key_mapping import IMAGENET
from convatlas.interop.load_weights import (
    architecture_difference,
    best_match,
    copy_matched,
    infer_arguments,
    summarize_paths,
)
from convatlas.interop.state_dict_match import SOURCES, classification_layers, match_state_dict
from convatlas.interop.weight_file import WeightFile, read_weight_file, weights_sha256
from convatlas.models import Architecture, Network
from convatlas.models.fcn import FCN, init_from
from convatlas.names import resolve_path
from convatlas.training.run import Pretrained


class PretrainedWeights(NamedTuple):
    """Weights of a network by the atlas's names, as a file holds them.

    `classes` are those of the head, None where it has none that could be kept. `new` are the keys that the
    file lacks, beside those of the classification layers; `notes` say what was taken from the file.
    """

    tensors: dict[str, Tensor]
    classes: tuple[str, ...] | None
    normalizer: Normalizer
    new: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


class PretrainedFile:
    """A weight file, read and hashed once."""

    def __init__(self, path: str):
        self.path = Path(resolve_path(path))
        self.name = printable(path)

    @cached_property
    def sha256(self) -> str:
        """Raises UserError for a file that cannot be read."""
        return weights_sha256(self.path)

    @cached_property
    def weight_file(self) -> WeightFile:
        return read_weight_file(self.path)

    def architecture_of(self, name: str, edition: str) -> Architecture:
        """The network of this name, with the arguments and edits of the weights where the file has them."""
        network = self.weight_file.architecture
        if network is None or (network.name, network.edition) != (name, edition):
            return models.get_architecture(name, edition)
        arguments = {
            key: value for key, value in network.arguments.items() if key not in models.OPEN_ARGUMENTS
        }
        return models.get_architecture(name, edition, edits=network.edits, **arguments)

    def weights_for(self, architecture: Architecture) -> PretrainedWeights:
        """The weights for a network. Raises UserError where the file holds those of another one."""
        model_file = self.weight_file.model_file
        if model_file is None:
            return self._weights_of_a_library(architecture)
        network = model_file.metadata.network
        if network.name != architecture.name and models.get_entry(architecture.name).task == "segmentation":
            return self._weights_of_coarser(model_file, architecture)
        if network.name != architecture.name:
            raise UsageError(
                f"{self.name} holds {network.name}: it cannot be the start of {architecture.name}"
            )
        if difference := architecture_difference(network, architecture):
            raise UsageError(
                f"{self.name} holds {network.name} with {difference}, which computes something else: build "
                "that network"
            )
        classes = model_file.metadata.classes
        return PretrainedWeights(model_file.model.state_dict(), classes, model_file.normalizer)

    def _weights_of_coarser(self, model_file: ModelFile, architecture: Architecture) -> PretrainedWeights:
        """The weights of a classifier, or of a coarser FCN, as the start of an FCN (arXiv:1411.4038, sec. 4.1
        and 4.2)."""
        network = models.build(architecture)
        source = model_file.metadata.network
        if not isinstance(network, FCN):
            raise UsageError(
                f"{self.name} holds {source.name}: it cannot be the start of {architecture.name}"
            )
        try:
            copied = init_from(network, model_file.model)
        except ValueError as error:
            raise UsageError(
                f"{self.name} holds {source.name}, which cannot be the start of {architecture.name}: {error}"
            ) from None
        state = network.state_dict()
        is_fcn = isinstance(model_file.model, FCN)
        return PretrainedWeights(
            {name: state[name] for name in copied},
            model_file.metadata.classes if is_fcn else None,
            model_file.normalizer,
            tuple(name for name in state if name not in copied),
            (f"the layers of {source.name} are the first ones of {architecture.name}",),
        )

    def _weights_of_a_library(self, architecture: Architecture) -> PretrainedWeights:
        """Weights of another library, for as many classes and channels as they have, with or without their
        fully connected layers."""
        tensors, config = self.weight_file.content, self.weight_file.config
        with torch.device("meta"):
            model = models.build(architecture)
            matches = [match_state_dict(model, tensors, source, config=config) for source in _SOURCES]
            nearest = min((match for match in matches if match), key=lambda match: match.distance)
            inferred = infer_arguments(model, tensors, nearest)
            model = models.build(
                models.get_architecture(
                    architecture.name,
                    architecture.edition,
                    edits=architecture.edits,
                    **(architecture.arguments | inferred),
                )
            )
        kept = match_state_dict(model, tensors, nearest.source, config=config)
        headless = kept is None or not kept.exact
        match = best_match(model, tensors, self.name, head="new" if headless else "keep", config=config)
        model = model.to_empty(device="cpu")
        copy_matched(model, tensors, match, self.name)
        state = {key: tensor for key, tensor in model.state_dict().items() if key in match.source_keys}
        mapping = SOURCES[match.source][architecture.name] if match.source in SOURCES else None
        channels = model.in_chans
        mean, std = (
            _channel_values(values, channels) for values in (mapping.mean_std if mapping else IMAGENET)
        )
        part = f"the weights are {printable(match.part)} of the file, " if match.part else "the weights have "
        notes = [f"{part}{'under ' if match.part else ''}{match.source}'s names"]
        if match.ignored:
            notes.append(f"ignored in the file: {summarize_paths(match.ignored, match.part)}")
        classes = None if headless else tuple(map(str, range(_num_classes(model))))
        return PretrainedWeights(state, classes, Normalizer(mean, std), match.new, tuple(notes))


_SOURCES = ("convatlas", *SOURCES)


def _num_classes(model: Network) -> int:
    assert model.architecture is not None
    return int(model.architecture.arguments["num_classes"])  # type: ignore[arg-type]


def resolve_pretrained(
    pretrained: Pretrained,
    file: PretrainedFile,
    architecture: Architecture,
    classes: Sequence[str],
) -> tuple[Pretrained, PretrainedWeights]:
    """Everything decided, and the weights of the file, for as many channels as the network has.

    Raises UsageError when the head is to be kept and lacks a class, UserError for a file that cannot be used,
    or that is no longer the one of the run.
    """
    if pretrained.sha256 and file.sha256 != pretrained.sha256:
        raise UserError(
            f"{file.name} is not the file that this run started from: its SHA-256 differs; restore that file"
        )
    weights = file.weights_for(architecture)
    known = weights.classes
    head = pretrained.head
    if weights.new and known is not None and known != tuple(classes):
        raise UsageError(
            f"{file.name} labels other classes, or in another order, {', '.join(map(printable, known[:3]))} "
            "first: start from a classifier, or from a coarser network of these data"
        )
    if head == "auto":
        head = "keep" if known is not None and set(known) == set(classes) else "reinit"
    if head == "keep" and known is None:
        raise UsageError(
            f"{file.name} has no head for {architecture.name}: start with a new one, "
            "--set pretrained.head=reinit"
        )
    missing = [name for name in classes if name not in (known or ())]
    if head == "keep" and known is not None and missing:
        raise UsageError(
            f"{file.name} has no class '{printable(missing[0])}' ({len(missing)} of {len(classes)} are not "
            f"among its {len(known)}): start with a new head, --set pretrained.head=reinit"
        )
    if architecture.arguments["in_chans"] == 1:
        weights = _for_grey_images(weights)
    normalization = pretrained.normalization
    if normalization == "auto":
        any_size = weights.normalizer.mean.shape == (architecture.arguments["in_chans"], 1, 1)
        normalization = "pretrained" if any_size else "dataset"
    return pretrained.replace(head=head, normalization=normalization, sha256=file.sha256), weights


def load_pretrained(
    pretrained: Pretrained, weights: PretrainedWeights, model: Network, classes: Sequence[str]
) -> None:
    """Copy the weights into `model`. Raises UserError when they do not fit."""
    assert model.architecture is not None
    known = weights.classes or ()
    heads_absent = tuple(
        f"{head}." for head in model.heads if not any(name.startswith(f"{head}.") for name in weights.tensors)
    )
    layers = tuple(f"{path}." for path in classification_layers(model))
    rows = torch.tensor([known.index(name) for name in classes]) if pretrained.head == "keep" else None
    copied: dict[str, Tensor] = {}
    for name, target in model.state_dict().items():
        classifies = name.startswith(layers)
        if name.startswith(heads_absent) or name in weights.new or (classifies and rows is None):
            continue
        source = weights.tensors.get(name)
        if source is None and name.endswith("num_batches_tracked"):
            continue
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


def _for_grey_images(weights: PretrainedWeights) -> PretrainedWeights:
    """Weights of RGB images as those of grey ones: a grey image has the same value in all three channels, so
    the first convolution's weights are summed over them. Weights of other images are unchanged."""
    first = next(iter(weights.tensors))
    kernel = weights.tensors[first]
    if kernel.dim() != 4 or kernel.shape[1] != 3:
        return weights
    normalizer = weights.normalizer
    return weights._replace(
        tensors=weights.tensors | {first: kernel.sum(1, keepdim=True)},
        normalizer=Normalizer(normalizer.mean.mean(0, keepdim=True), normalizer.std.mean(0, keepdim=True)),
        notes=(
            *weights.notes,
            f"the weights of {first} are summed over their 3 channels, for grey images "
            "(--set model.arguments.in_chans=3 decodes the images as RGB instead)",
        ),
    )


def _channel_values(values: tuple[float, ...], num_channels: int) -> Tensor:
    """The values as (channels, 1, 1); if the number of channels differs, the mean of the values for each."""
    if num_channels != len(values):
        values = (sum(values) / len(values),) * num_channels
    return torch.tensor(values)[:, None, None]
