from pathlib import Path

import pytest
import torch
from helpers.networks import randomize_weights

from convatlas import models
from convatlas.classifier import FORMAT, Classifier, ClassifierMetadata, write_model_file
from convatlas.data.transforms.normalize import Normalizer
from convatlas.data.transforms.preprocessing import fixed_size_preprocessing


@pytest.fixture
def classifier() -> Classifier:
    """A small VGG-11 with random weights, for scikit-learn's digits."""
    model = models.create_model("vgg11", num_classes=10, in_chans=1, width=0.05, image_size=32)
    randomize_weights(model)
    assert model.architecture is not None
    metadata = ClassifierMetadata(
        format=FORMAT,
        network=model.architecture,
        classes=tuple(f"digit {i}" for i in range(10)),
        preprocessing=fixed_size_preprocessing(1, (8, 8), (32, 32)),
        precision="fp32",
        batch=100,
        provenance={"data": "digits"},
        metrics={},
    )
    half = torch.full((1, 1, 1), 0.5)
    return Classifier(metadata, model, Normalizer(half, half.clone()))


@pytest.fixture
def run(classifier: Classifier, tmp_path: Path) -> Path:
    """A folder with this classifier, as a run leaves it."""
    file = tmp_path / "run" / "model.safetensors"
    file.parent.mkdir()
    write_model_file(file, classifier.metadata, classifier.model, classifier.normalizer)
    return file.parent
