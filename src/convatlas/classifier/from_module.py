"""A user's module as the parts of a classifier: its architecture, classes, preprocessing and weights."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from convatlas import models
from convatlas.classifier.model_file import FORMAT, ClassifierMetadata, ModelFile
from convatlas.data.transforms.normalize import Normalizer
from convatlas.data.transforms.preprocessing import (
    Preprocessing,
    center_crop_preprocessing,
    tile_preprocessing,
)
from convatlas.errors import UsageError, printable
from convatlas.models import Architecture, Network

ORIGIN = "saved from a user's module"
EVALUATION_BATCH = 32

# what a network of the other task does, and which class takes it
_OTHER_TASK = {
    "classification": ("labels every pixel", "Segmenter"),
    "segmentation": ("classifies images", "Classifier"),
}
ChannelValues = float | Sequence[float] | Tensor
_EXPECTED = (
    "expected a network of ca.create_model, with at most another last layer: a saved classifier names its "
    "network, so that it can be built again"
)
# What evaluation does not compute with
_IRRELEVANT = re.compile(r"(, )?(inplace|momentum)=[^,)]*")


def describe_module(
    module: nn.Module,
    classes: Sequence[str],
    preprocessing: Preprocessing | int | tuple[int, int],
    mean: ChannelValues | None,
    std: ChannelValues | None,
    normalizer: Normalizer | None,
    data: str | None,
    task: str = "classification",
) -> ModelFile:
    """The parts of a classifier, see `Classifier.from_module`, or of a segmenter; the network is a copy of
    the module."""
    names = _class_names(classes)
    network = _copy_network(_unwrapped(module), len(names), task)
    geometry = _geometry(preprocessing, network)
    assert network.architecture is not None
    metadata = ClassifierMetadata(
        format=FORMAT,
        network=network.architecture,
        classes=names,
        preprocessing=geometry,
        precision="fp32",
        batch=1 if geometry.mode == "tiles" else EVALUATION_BATCH,
        provenance={"origin": ORIGIN} | ({} if data is None else {"data": data}),
        metrics={},
    )
    return ModelFile(metadata, network, _normalizer(mean, std, normalizer, geometry))


def _class_names(classes: Sequence[str]) -> tuple[str, ...]:
    if isinstance(classes, str | Mapping) or not all(isinstance(name, str) for name in classes):
        raise UsageError("classes should be the list of their names, in the order of the logits")
    names = tuple(classes)
    duplicate = next((name for i, name in enumerate(names) if name in names[:i]), None)
    if duplicate is not None:
        raise UsageError(f"classes names '{printable(duplicate)}' twice: classes are matched by their names")
    return names


def _unwrapped(module: nn.Module) -> nn.Module:
    """The module inside DistributedDataParallel, torch.compile or an average of weights."""
    while not isinstance(module, Network):
        inside = getattr(module, "_orig_mod", None)
        if inside is None and type(module).__module__.startswith("torch."):
            inside = getattr(module, "module", None)
        if not isinstance(inside, nn.Module):
            return module
        module = inside
    return module


def _copy_network(module: nn.Module, num_classes: int, task: str) -> Network:
    """The network of the atlas that the module is, with its weights, and `num_classes` classes.

    Raises UsageError for one of another task, and for any other module; the message names the first part that
    differs.
    """
    architecture = getattr(module, "architecture", None)
    if not isinstance(module, Network) or not isinstance(architecture, Architecture):
        raise UsageError(f"no name of the atlas describes a {type(module).__name__}: {_EXPECTED}")
    if _task(architecture) != task:
        ability, maker = _OTHER_TASK[task]
        raise UsageError(f"{architecture.name} {ability}: use ca.{maker}.from_module, which takes the same")
    architecture = architecture.replace(arguments=architecture.arguments | {"num_classes": num_classes})
    with torch.random.fork_rng(devices=[]):
        network = models.build(architecture)
    difference = _first_difference(module, network)
    if difference:
        raise UsageError(
            f"this {architecture.name} is no longer the one that ca.create_model builds for {num_classes} "
            f"classes: {difference}; {_EXPECTED}"
        )
    state = module.state_dict()
    invalid = next((key for key, tensor in state.items() if not tensor.isfinite().all()), None)
    if invalid is not None:
        raise UsageError(f"{invalid} holds values that are not finite: expected trained weights")
    network.load_state_dict(state)
    return network


def _task(architecture: Architecture | None) -> str:
    assert architecture is not None
    return models.get_entry(architecture.name, architecture.edition).task


def _first_difference(module: nn.Module, network: nn.Module) -> str:
    """What the module computes otherwise than the network of its architecture; "" for nothing."""
    shapes, expected_shapes = (
        {k: tuple(v.shape) for k, v in m.state_dict().items()} for m in (module, network)
    )
    for key in [*expected_shapes, *shapes]:
        if shapes.get(key) != expected_shapes.get(key):
            shape, expected = (
                "absent" if size is None else f"of shape {size}"
                for size in (shapes.get(key), expected_shapes.get(key))
            )
            return f"{key} is {shape}, and {expected} in that"
    kinds, expected_kinds = (
        {path: _computation(part) for path, part in m.named_modules()} for m in (module, network)
    )
    for path in [*expected_kinds, *kinds]:
        if kinds.get(path) != expected_kinds.get(path):
            kind, expected = kinds.get(path, "absent"), expected_kinds.get(path, "absent")
            return f"{path} is {kind}, and {expected} in that"
    return ""


def _computation(module: nn.Module) -> str:
    """The class of a module and its settings, as far as evaluation computes with them."""
    name = type(module).__name__
    if isinstance(module, nn.Dropout):
        return name
    if isinstance(module, nn.BatchNorm2d | nn.SyncBatchNorm):
        name = "BatchNorm2d"  # in evaluation one over all ranks is the same
    return f"{name}({_IRRELEVANT.sub('', module.extra_repr())})"


def _geometry(preprocessing: Any, network: Network) -> Preprocessing:
    if isinstance(preprocessing, int):
        preprocessing = (preprocessing, preprocessing)
    if isinstance(preprocessing, tuple | list) and len(preprocessing) == 2:
        height, width = preprocessing
        if isinstance(height, int) and isinstance(width, int) and min(height, width) > 0:
            preprocessing = _preprocessing_of_size(network, (height, width))
    if not isinstance(preprocessing, Preprocessing):
        raise UsageError(
            "preprocessing should be the size of the network's images, a side or (height, width) in pixels, "
            "or a Preprocessing, such as classifier.metadata.preprocessing, not "
            f"{printable(repr(preprocessing))[:80]}"
        )
    if preprocessing.channels != network.in_chans:
        raise UsageError(
            f"the preprocessing gives {preprocessing.channels} channels, the network takes {network.in_chans}"
        )
    expected = _preprocessing_of_size(network, preprocessing.input_size)
    if _tiling(preprocessing) != _tiling(expected):
        raise UsageError(
            f"the preprocessing is that of another kind of network than {network.name}: give the size of its "
            "images"
        )
    return preprocessing


def _preprocessing_of_size(network: Network, size: tuple[int, int]) -> Preprocessing:
    """Raises UsageError for a size that the network does not take."""
    with torch.no_grad():
        network.check_images(torch.empty(1, network.in_chans, *size, device="meta"))
    if _task(network.architecture) == "segmentation":
        smallest = 2 * network.margin + network.stride
        if network.margin and min(size) < smallest:
            raise UsageError(
                f"{network.name} labels a tile without its outer {network.margin} pixels: take tiles of at "
                f"least {smallest}x{smallest}, not {size[0]}x{size[1]}"
            )
        return tile_preprocessing(network.in_chans, size, network.margin, network.stride)
    return center_crop_preprocessing(network.in_chans, size)


def _tiling(preprocessing: Preprocessing) -> tuple[bool, int, int]:
    return preprocessing.mode == "tiles", preprocessing.margin, preprocessing.stride


def _normalizer(
    mean: ChannelValues | None,
    std: ChannelValues | None,
    normalizer: Normalizer | None,
    geometry: Preprocessing,
) -> Normalizer:
    if normalizer is not None:
        if mean is not None or std is not None:
            raise UsageError("mean and std, and a normalizer, exclude each other: give what training used")
        return Normalizer(normalizer.mean.detach().cpu().clone(), normalizer.std.detach().cpu().clone())
    if mean is None or std is None:
        raise UsageError(
            "say how the pixels were normalised in training: mean=(...) and std=(...) for each channel, of "
            "pixels from 0 to 1 (0 and 1 for none), or normalizer=classifier.normalizer"
        )
    values = [torch.as_tensor(value, dtype=torch.float32).flatten() for value in (mean, std)]
    if any(len(value) not in (1, geometry.channels) or not value.isfinite().all() for value in values):
        raise UsageError(
            f"mean and std should be one number, or one for each of the {geometry.channels} channels"
        )
    if not bool((values[1] > 0).all()) or bool((values[0].abs() > 2).any()):
        raise UsageError(
            "mean and std should be those of pixels from 0 to 1, and std above 0: divide those of pixels "
            "from 0 to 255 by 255"
        )
    mean_values, std_values = (value.expand(geometry.channels).clone()[:, None, None] for value in values)
    return Normalizer(mean_values, std_values)
