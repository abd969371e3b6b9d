import os

import hypothesis
import pytest
import torch

# Each of the tests' processes has a core of its own: threads of two trainings would wait for each other.
if hasattr(os, "sched_setaffinity"):
    cores = sorted(os.sched_getaffinity(0))
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
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
