from pathlib import Path

import pytest
from helpers.ensemble_members import make_classifier, make_photos, make_run


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The name of a data set of 6 classes with 24 test images."""
    return make_photos(tmp_path_factory.mktemp("data") / "photos")


@pytest.fixture
def runs(photos: str, tmp_path: Path) -> list[Path]:
    """The run folders of four networks whose predictions differ."""
    return [make_run(tmp_path / f"run{seed}", make_classifier(seed, data=photos)) for seed in range(4)]
