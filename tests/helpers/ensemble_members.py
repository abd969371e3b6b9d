"""Classifiers with random weights, and photographs of several sizes on which they disagree."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image

from convatlas import models
from convatlas.classifier import Classifier, model_file
from convatlas.data.transforms.normalize import Normalizer
from convatlas.data.transforms.preprocessing import Preprocessing, center_crop_preprocessing
from helpers.networks import calibrate_batch_norm, randomize_weights

CLASSES = ("cat", "dog", "fox", "hen", "owl", "pig")
SIZES = ((48, 72), (70, 50), (64, 64), (33, 90), (55, 41))  # height, width
TEST_IMAGES_PER_CLASS = 4
NUM_TEST_IMAGES = TEST_IMAGES_PER_CLASS * len(CLASSES)


def make_photos(folder: Path, classes: Sequence[str] = CLASSES) -> str:
    """Write FOLDER/{train,val,test}/CLASS/NAME.png and return the name of the data set."""
    scene = skimage.data.coffee()  # type: ignore[no-untyped-call]
    number = 0
    for split, count in (("train", 2), ("val", 1), ("test", TEST_IMAGES_PER_CLASS)):
        for name in classes:
            (folder / split / name).mkdir(parents=True)
            for i in range(count):
                height, width = SIZES[number % len(SIZES)]
                top = 37 * number % (400 - height)
                left = 61 * number % (600 - width)
                crop = scene[top : top + height, left : left + width]
                Image.fromarray(crop).save(folder / split / name / f"{name}{i}.png")
                number += 1
    return f"folder:{folder}"


def make_classifier(
    seed: int = 0,
    network: str = "resnet20_cifar",
    data: str = "",
    classes: Sequence[str] = CLASSES,
    preprocessing: Preprocessing | None = None,
    batch_size: int = 24,
    mean: torch.Tensor | None = None,
    **provenance: Any,
) -> Classifier:
    preprocessing = preprocessing or center_crop_preprocessing(3, (32, 32), 8 / 7)
    channels = preprocessing.channels
    torch.manual_seed(seed)
    model = models.create_model(
        network,
        width=0.25,
        num_classes=len(classes),
        in_chans=channels,
        image_size=preprocessing.input_size,
    )
    generator = torch.Generator().manual_seed(seed)
    calibrate_batch_norm(
        randomize_weights(model, seed), torch.randn(16, *preprocessing.shape, generator=generator)
    )
    assert model.architecture is not None
    metadata = model_file.ClassifierMetadata(
        format=model_file.FORMAT,
        network=model.architecture,
        classes=tuple(classes),
        preprocessing=preprocessing,
        precision="fp32",
        batch=batch_size,
        provenance={"data": data} | provenance,
        metrics={},
    )
    if mean is None:
        mean = torch.full((channels, 1, 1), 0.45)
    return Classifier(metadata, model, Normalizer(mean, torch.full((channels, 1, 1), 0.25)))


def write_classifier(file: Path, classifier: Classifier) -> Path:
    model_file.write_model_file(file, classifier.metadata, classifier.model, classifier.normalizer)
    return file


def make_run(folder: Path, classifier: Classifier) -> Path:
    """Make a folder with the files of a run that evaluation reads."""
    folder.mkdir(parents=True)
    write_classifier(folder / "model.safetensors", classifier)
    return folder


def permute_classes(classifier: Classifier, order: Sequence[int]) -> Classifier:
    """The same classifier with its classes in another order."""
    metadata = classifier.metadata
    permuted = make_classifier(
        classes=tuple(metadata.classes[i] for i in order),
        preprocessing=metadata.preprocessing,
        batch_size=metadata.batch,
        data=metadata.provenance["data"],
    )
    permuted.model.load_state_dict(
        {
            name: tensor[np.array(order)] if name.startswith("fc.") else tensor
            for name, tensor in classifier.model.state_dict().items()
        }
    )
    return Classifier(permuted.metadata, permuted.model, classifier.normalizer)


def forbid_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on, running a network is an AssertionError."""

    def refuse(self: Classifier, images: torch.Tensor) -> torch.Tensor:
        raise AssertionError("a network was run")

    monkeypatch.setattr(Classifier, "logits", refuse)
