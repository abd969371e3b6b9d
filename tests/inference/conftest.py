from pathlib import Path

import pytest
import torch
from small import small_run
from torch import Tensor

import convatlas as ca
from convatlas.classifier import Classifier
from convatlas.data import open_dataset


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a short training on scikit-learn's digits."""
    out = tmp_path_factory.mktemp("runs") / "run"
    ca.train(small_run(epochs=5), out=out)
    return out


@pytest.fixture(scope="session")
def trained(run: Path) -> Classifier:
    return ca.load(run)


@pytest.fixture(scope="session")
def digits(trained: Classifier) -> Tensor:
    """The test images as the classifier sees them: uint8."""
    split = open_dataset("digits").splits["test"]
    return torch.stack([trained.card.preprocessing.see(split.images.picture(i)) for i in range(len(split))])
