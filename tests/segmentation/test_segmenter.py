"""A network of the user's own loop becomes a segmenter; what is none is refused in a sentence."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import convatlas as ca
from convatlas.data.transforms.preprocessing import center_crop_preprocessing, tile_preprocessing
from convatlas.errors import UsageError

CLASSES = ["ground", "cell"]
GREY: dict[str, Any] = {"mean": 0.4, "std": 0.25}


def network(name: str, **arguments: Any) -> ca.models.Network:
    return ca.create_model(name, width=0.02, num_classes=2, in_chans=1, **arguments).eval()


@pytest.mark.parametrize(("name", "size", "margin"), [("unet", (204, 220), 92), ("fcn32s", (64, 48), 0)])
def test_a_network_is_saved_and_loaded_and_labels_as_the_module_does(
    name: str, size: tuple[int, int], margin: int, tmp_path: Path
) -> None:
    model = network(name)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01 * torch.randn(parameter.shape))
    segmenter = ca.Segmenter.from_module(model, CLASSES, size, **GREY, data="cells")
    assert segmenter.save(tmp_path) == tmp_path / "model.safetensors"
    loaded = ca.Segmenter(tmp_path)
    assert loaded.classes == tuple(CLASSES)
    assert loaded.classifier.training_data == "cells"
    height, width = size[0] - 2 * margin, size[1] - 2 * margin
    image = np.random.default_rng(0).integers(0, 256, (height, width), np.uint8)
    (mask,) = loaded.predict(image, "eager")
    tile = torch.from_numpy(mirrored(image, margin))
    with torch.inference_mode():
        logits = model(((tile / 255 - GREY["mean"]) / GREY["std"])[None, None])
    assert (mask == logits[0].argmax(0).numpy()).all()


def mirrored(image: np.ndarray[Any, Any], margin: int) -> np.ndarray[Any, Any]:
    rows, columns = (
        np.abs((np.arange(-margin, side + margin) + side - 1) % (2 * side - 2) - (side - 1))
        for side in image.shape
    )
    mirror: np.ndarray[Any, Any] = image[rows[:, None], columns]
    return mirror


def test_a_segmenter_that_is_trained_further_keeps_its_preprocessing() -> None:
    scaled = tile_preprocessing(1, (204, 204), 92, 16, scale=0.5)
    first = ca.Segmenter.from_module(network("unet"), CLASSES, scaled, **GREY)
    again = ca.Segmenter.from_module(
        first.classifier.model, CLASSES, first.metadata.preprocessing, normalizer=first.classifier.normalizer
    )
    assert again.metadata.preprocessing == scaled
    assert again.classifier.weights_sha256 == first.classifier.weights_sha256


@pytest.mark.parametrize(
    ("kind", "name", "preprocessing", "message"),
    [
        (
            ca.Segmenter,
            "resnet20_cifar",
            32,
            r"classifies images: use ca\.Classifier\.from_module",
        ),
        (ca.Classifier, "unet", 188, r"unet labels every pixel: use ca\.Segmenter\.from_module"),
        (ca.Segmenter, "unet", 100, "unet needs images of at least 188x188"),
        (ca.Segmenter, "unet", 188, "outer 92 pixels: take tiles of at least 200x200, not 188x188"),
        (ca.Segmenter, "unet", center_crop_preprocessing(1, (204, 204)), "another kind of network than unet"),
        (ca.Segmenter, "unet", tile_preprocessing(1, (204, 204), 0, 32), "another kind of network than unet"),
        (
            ca.Classifier,
            "resnet20_cifar",
            tile_preprocessing(1, (32, 32), 0, 1),
            "another kind of network than resnet20_cifar: give the size of its images",
        ),
        (ca.Segmenter, "unet", 0, "preprocessing should be the size of the network's images"),
    ],
)
def test_what_does_not_fit_is_refused(kind: Any, name: str, preprocessing: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        kind.from_module(network(name), CLASSES, preprocessing, **GREY)


def test_another_module_is_refused() -> None:
    with pytest.raises(UsageError, match="no name of the atlas describes a Conv2d"):
        ca.Segmenter.from_module(nn.Conv2d(1, 2, 3), CLASSES, 204, **GREY)
