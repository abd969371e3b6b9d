"""Classifiers that were never trained, and photographs of several sizes that they disagree about."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import skimage.data
import torch
from PIL import Image

from convatlas import models
from convatlas.classifier import Classifier, model_file
from convatlas.data.transforms.normalize import Normalizer
from convatlas.data.transforms.preprocessing import Preprocessing, center_crop_preprocessing
from helpers.networks import settle, shake

CLASSES = ("cat", "dog", "fox", "hen", "owl", "pig")
SIZES = ((48, 72), (70, 50), (64, 64), (33, 90), (55, 41))  # height, width


def photographs(folder: Path, test: int = 4, classes: Sequence[str] = CLASSES) -> str:
    """Makes FOLDER/{train,val,test}/CLASS/NAME.png and returns the name of the data set."""
    scene, number = skimage.data.coffee(), 0  # type: ignore[no-untyped-call]
    for split, count in (("train", 2), ("val", 1), ("test", test)):
        for name in classes:
            (folder / split / name).mkdir(parents=True)
            for place in range(count):
                height, width = SIZES[number % len(SIZES)]
                top, left = 37 * number % (400 - height), 61 * number % (600 - width)
                Image.fromarray(scene[top : top + height, left : left + width]).save(folder / split / name / f"{name}{place}.png")
                number += 1
    return f"folder:{folder}"


def member(
    seed: int = 0,
    network: str = "resnet20_cifar",
    data: str = "",
    classes: Sequence[str] = CLASSES,
    geometry: Preprocessing | None = None,
    batch: int = 24,
    mean: torch.Tensor | None = None,
    **provenance: Any,
) -> Classifier:
    geometry = geometry or center_crop_preprocessing(3, (32, 32), 8 / 7)
    torch.manual_seed(seed)
    model = models.create_model(network, width=0.25, num_classes=len(classes), in_chans=geometry.channels, image_size=geometry.size)
    settle(shake(model, seed), torch.randn(16, *geometry.shape, generator=torch.Generator().manual_seed(seed)))
    assert model.architecture is not None
    card = model_file.ClassifierMetadata(
        format=model_file.FORMAT,
        network=model.architecture,
        classes=tuple(classes),
        preprocessing=geometry,
        precision="fp32",
        batch=batch,
        provenance={"data": data} | provenance,
        metrics={},
    )
    grey = torch.full((geometry.channels, 1, 1), 0.45)
    return Classifier(card, model, Normalizer(grey if mean is None else mean, torch.full((geometry.channels, 1, 1), 0.25)))


def saved(folder: Path, one: Classifier) -> Path:
    """A folder as a run leaves it, as far as evaluation looks."""
    folder.mkdir(parents=True)
    model_file.write_model_file(folder / "model.safetensors", one.metadata, one.model, one.normalizer)
    return folder


def permuted(one: Classifier, order: Sequence[int]) -> Classifier:
    """The same classifier, its classes in another order."""
    weights = one.model.state_dict()
    classes = tuple(one.metadata.classes[i] for i in order)
    other = member(classes=classes, geometry=one.metadata.preprocessing, batch=one.metadata.batch, data=one.metadata.provenance["data"])
    moved = {name: t[np.array(order)] if name.startswith("fc.") else t for name, t in weights.items()}
    other.model.load_state_dict(moved)
    return Classifier(other.metadata, other.model, one.normalizer)
