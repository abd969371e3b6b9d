import os
from pathlib import Path

import hypothesis
import pytest
import torch
from helpers.digit_boxes import train_on, write_split
from helpers.small_runs import small_run
from torch import Tensor

import convatlas as ca
from convatlas.classifier import Classifier
from convatlas.data import open_dataset

# Each worker of xdist gets a core of its own: the threads of two trainings would wait for each other. The
# process that starts the workers keeps all cores, or the workers would share its core.
if hasattr(os, "sched_setaffinity") and "PYTEST_XDIST_WORKER" in os.environ:
    cores = sorted(os.sched_getaffinity(0))
    worker = int(os.environ["PYTEST_XDIST_WORKER"].removeprefix("gw"))
    os.sched_setaffinity(0, {cores[worker % len(cores)]})
torch.set_num_threads(1)

# A property does not fail because the machine pauses for some seconds.
hypothesis.settings.register_profile(
    "no deadline", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("no deadline")


@pytest.fixture(autouse=True)
def _isolated_environment(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The data and caches of the person who runs the tests must not change their results."""
    monkeypatch.delenv("CONVATLAS_DATA", raising=False)
    monkeypatch.setenv("CONVATLAS_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    os.environ.setdefault("MPLBACKEND", "agg")


@pytest.fixture
def cuda() -> torch.device:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return torch.device("cuda")


@pytest.fixture(scope="session")
def trained_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a short training on scikit-learn's digits."""
    out = tmp_path_factory.mktemp("runs") / "run"
    ca.train(small_run(epochs=5), out=out)
    return out


@pytest.fixture(scope="session")
def trained(trained_run: Path) -> Classifier:
    return ca.load(trained_run)


@pytest.fixture(scope="session")
def digits(trained: Classifier) -> Tensor:
    """The test images of that classifier's data, preprocessed for it: uint8, (n, 1, h, w)."""
    split = open_dataset("digits").splits["test"]
    preprocessing = trained.metadata.preprocessing
    return torch.stack([preprocessing.transform(split.images.image(i)) for i in range(len(split))])


@pytest.fixture(scope="session")
def digit_boxes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digits with their boxes, in splits."""
    folder = tmp_path_factory.mktemp("digit-boxes")
    write_split(folder / "train", 45, 0)
    write_split(folder / "val", 3, 2)
    write_split(folder / "test", 12, 1)
    return folder


@pytest.fixture(scope="session")
def detector(trained: Classifier, digit_boxes: Path) -> ca.Detector:
    """A detector of them."""
    return train_on(digit_boxes, trained)


@pytest.fixture(scope="session")
def detector_folder(detector: ca.Detector, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of its file."""
    return detector.save(tmp_path_factory.mktemp("detectors") / "detector").parent
