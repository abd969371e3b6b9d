"""Images that cannot be read in the middle of a training."""

import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.damage import unreadable_files, unusual_files
from helpers.small_runs import weights_sha256
from PIL import Image

import convatlas as ca
from convatlas import models
from convatlas.data.sources.quarantine import NAME
from convatlas.errors import UserError
from convatlas.runtime.signals import StoppedBySignal
from convatlas.training import loop
from convatlas.training.run_folder import read_run_folder
from convatlas.training.validation import is_due

TRUNCATED = ("train/dark/3", "train/dark/4", "train/light/17", "val/light/5", "test/dark/0")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two classes of 60 images each, in splits, so that damage moves no image to another split."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 40), ("val", 10), ("test", 10)):
        for name, brightness in (("dark", 60), ("light", 190)):
            folder = tmp_path / "photos" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(brightness - 50, brightness + 50, size=(30, 40, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.jpg")
    return tmp_path / "photos"


def truncate_photos(photos: Path) -> list[str]:
    """Cut the ends of five files off; returns their paths, sorted."""
    files = [photos / f"{name}.jpg" for name in TRUNCATED]
    for file in files:
        file.write_bytes(file.read_bytes()[:-200])
    return sorted(map(str, files))


def photo_run(photos: Path, **fields: Any) -> ca.Run:
    """Three epochs of five steps."""
    architecture = models.get_architecture("resnet20_cifar", width=0.5, image_size=16)
    run = ca.Run(model=architecture, data=f"folder:{photos}")
    recipe = run.recipe.replace(batch=16, budget=run.recipe.budget.replace(count=3))
    return run.replace(recipe=recipe, **fields)


def unreadable_events(out: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line.get("event") == "unreadable"]


def quarantined_files(photos: Path) -> list[str]:
    return sorted(json.loads(line)["file"] for line in (photos / NAME).read_text().splitlines())


def train_with_workers(photos: Path, out: Path) -> list[ca.Result]:
    """The same training with 0 and with 3 workers, into OUT/0 and OUT/3."""
    results = []
    for workers in (0, 3):
        (photos / NAME).unlink(missing_ok=True)
        results.append(ca.train(photo_run(photos), out=out / f"{workers}", workers=workers))
    return results


def assert_same_run(out: Path, expected: Path) -> None:
    assert weights_sha256(out) == weights_sha256(expected)
    assert (out / "metrics.jsonl").read_bytes() == (expected / "metrics.jsonl").read_bytes()


def test_broken_files_are_logged_once_with_any_number_of_workers(photos: Path, tmp_path: Path) -> None:
    broken = truncate_photos(photos)
    results = train_with_workers(photos, tmp_path)
    assert_same_run(tmp_path / "3", tmp_path / "0")
    assert [result.metrics["test_n"] for result in results] == [19, 19]
    events = unreadable_events(tmp_path / "0")
    assert sorted(event["file"] for event in events) == broken
    assert all(event["split"] == Path(event["file"]).parts[-3] for event in events)
    assert all("premature end" in event["reason"].lower() for event in events)
    assert quarantined_files(photos) == broken


def test_later_runs_leave_the_broken_files_out(photos: Path, tmp_path: Path) -> None:
    truncate_photos(photos)
    ca.train(photo_run(photos), out=tmp_path / "first")
    document = ca.evaluate(ca.load(tmp_path / "first"), f"folder:{photos}")
    assert (document["n"], document["unreadable"]) == (19, [])
    later = ca.train(photo_run(photos, seed=1), out=tmp_path / "later")
    assert unreadable_events(tmp_path / "later") == []
    assert later.metrics["test_n"] == 19
    run_file = read_run_folder(tmp_path / "later")
    assert run_file is not None
    assert run_file.run.content.counts == {"train": 77, "val": 19, "test": 19}
    assert any("5 broken files are left out" in note for note in run_file.run.notes)


def test_all_kinds_of_damage_are_logged_and_unusual_files_are_not(photos: Path, tmp_path: Path) -> None:
    for name, files in (("dark", unreadable_files()), ("light", unusual_files())):
        for file_name, content in files.items():
            (photos / "train" / name / file_name).write_bytes(content)
    train_with_workers(photos, tmp_path)
    broken = sorted(unreadable_files())
    assert len(broken) >= 15
    assert sorted(Path(event["file"]).name for event in unreadable_events(tmp_path / "0")) == broken
    assert sorted(Path(file).name for file in quarantined_files(photos)) == broken
    assert weights_sha256(tmp_path / "0") == weights_sha256(tmp_path / "3")


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_run_logs_the_broken_files_as_if_never_stopped(
    photos: Path, tmp_path: Path, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    truncate_photos(photos)
    ca.train(photo_run(photos), out=tmp_path / "uninterrupted")
    (photos / NAME).unlink()
    signals: list[int] = []

    def raise_signal_once(step: int, every: int, last: int) -> bool:
        if step == 6 and not signals:  # before a validation, which is made when the run continues
            signals.append(step)
            signal.raise_signal(signal.SIGTERM)
        return is_due(step, every, last)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "is_due", raise_signal_once)
        with pytest.raises(StoppedBySignal, match="saved at step 6"):
            ca.train(photo_run(photos), out=tmp_path / "stopped")
    assert "val" in {event["split"] for event in unreadable_events(tmp_path / "stopped")}
    ca.train(photo_run(photos), out=tmp_path / "stopped", workers=workers)
    assert_same_run(tmp_path / "stopped", tmp_path / "uninterrupted")


def test_with_the_policy_fail_the_first_broken_file_ends_the_run(photos: Path, tmp_path: Path) -> None:
    truncate_photos(photos)
    message = r"(dark|light)/\d+\.jpg: .*Premature end.*--set on_unreadable=skip"
    with pytest.raises(UserError, match=message):
        ca.train(photo_run(photos, on_unreadable="fail"), out=tmp_path / "run")


def test_more_than_fifty_broken_files_end_the_run(photos: Path, tmp_path: Path) -> None:
    for file in sorted((photos / "train").rglob("*.jpg"))[:60]:
        file.write_bytes(b"\xff\xd8\xff\xe0")
    message = r"more than 50 of \d+ images cannot be read, .*jpg first .*data check"
    with pytest.raises(UserError, match=message):
        ca.train(photo_run(photos), out=tmp_path / "run")
