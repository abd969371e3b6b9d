import os
from pathlib import Path

import hypothesis
import pytest
import torch
from torch import Tensor

from convatlas.classifier import Classifier

# Each of the tests' processes has a core of its own: threads of two trainings would wait for each other. The one that starts them keeps
# all, or they would share its core.
if hasattr(os, "sched_setaffinity") and "PYTEST_XDIST_WORKER" in os.environ:
    cores = sorted(os.sched_getaffinity(0))
    number = int(os.environ["PYTEST_XDIST_WORKER"].removeprefix("gw"))
    os.sched_setaffinity(0, {cores[number % len(cores)]})
torch.set_num_threads(1)

# A machine that pauses for some seconds says nothing about a law.
hypothesis.settings.register_profile("patient", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("patient")


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Data and caches of the person who runs the tests must not change what they see."""
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
    from helpers.small_runs import small_run

    import convatlas as ca

    out = tmp_path_factory.mktemp("runs") / "run"
    ca.train(small_run(epochs=5), out=out)
    return out


@pytest.fixture(scope="session")
def trained(trained_run: Path) -> Classifier:
    import convatlas as ca

    return ca.load(trained_run)


@pytest.fixture(scope="session")
def digits(trained: Classifier) -> Tensor:
    """The test images of that classifier's data as it sees them, uint8."""
    from convatlas.data import open_dataset

    split = open_dataset("digits").splits["test"]
    return torch.stack([trained.metadata.preprocessing.transform(split.images.image(i)) for i in range(len(split))])
