"""Images that cannot be read, in the middle of a training."""

import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.damage import kinds, odd
from helpers.small_runs import weights
from PIL import Image

import convatlas as ca
from convatlas import models
from convatlas.data.sources.quarantine import NAME
from convatlas.errors import UserError
from convatlas.runtime.signals import StoppedBySignal
from convatlas.training import loop

RNG = np.random.default_rng(0)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two classes, 60 images each, in splits, so that damage moves nothing from one split to another."""
    for part, count in (("train", 40), ("val", 10), ("test", 10)):
        for name, value in (("dark", 60), ("light", 190)):
            (tmp_path / "photos" / part / name).mkdir(parents=True)
            for i in range(count):
                pixels = RNG.integers(value - 50, value + 50, size=(30, 40, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / "photos" / part / name / f"{i}.jpg")
    return tmp_path / "photos"


def cut_short(photos: Path) -> set[str]:
    names = ("train/dark/3", "train/dark/4", "train/light/17", "val/light/5", "test/dark/0")
    for name in names:
        file = photos / f"{name}.jpg"
        file.write_bytes(file.read_bytes()[:-200])
    return {str(photos / f"{name}.jpg") for name in names}


def run(photos: Path, **changes: Any) -> ca.Run:
    whole = ca.Run(model=models.get_architecture("resnet20_cifar", width=0.5, image_size=16), data=f"folder:{photos}")
    return whole.replace(recipe=whole.recipe.replace(batch=16, budget=whole.recipe.budget.replace(count=3)), **changes)


def unread(out: Path) -> list[dict[str, Any]]:
    return [line for line in map(json.loads, (out / "metrics.jsonl").read_text().splitlines()) if line["split"] == "unread"]


def test_a_training_goes_on_names_each_broken_file_once_and_only_those_and_later_runs_leave_them_out(photos: Path, tmp_path: Path) -> None:
    broken = cut_short(photos)
    results = []
    for workers in (0, 3):
        (photos / NAME).unlink(missing_ok=True)
        results.append(ca.train(run(photos), out=tmp_path / f"{workers}", workers=workers))
    assert weights(tmp_path / "0") == weights(tmp_path / "3")
    assert (tmp_path / "0" / "metrics.jsonl").read_bytes() == (tmp_path / "3" / "metrics.jsonl").read_bytes()
    assert [result.metrics["test_n"] for result in results] == [19, 19]
    lines = unread(tmp_path / "0")
    assert sorted(line["file"] for line in lines) == sorted(broken)
    assert {(line["file"], line["part"]) for line in lines} == {(file, Path(file).parts[-3]) for file in broken}
    assert all("premature end" in line["reason"].lower() for line in lines)
    listed = [json.loads(line)["file"] for line in (photos / NAME).read_text().splitlines()]
    assert sorted(listed) == sorted(broken)

    document = ca.evaluate(ca.load(tmp_path / "0"), f"folder:{photos}")
    assert (document["n"], document["unread"]) == (19, [])  # what is on the list is left out here too

    later = ca.train(run(photos, seed=1), out=tmp_path / "later")
    assert unread(tmp_path / "later") == []
    stored = json.loads((tmp_path / "later" / "run.json").read_text())["run"]
    assert stored["data"]["content"]["counts"] == {"train": 77, "val": 19, "test": 19}
    assert any("5 broken files are left out" in note for note in stored["notes"])
    assert later.metrics["test_n"] == 19


def test_thirty_kinds_of_damage_are_named_and_the_odd_but_sound_are_trained_on(photos: Path, tmp_path: Path) -> None:
    for folder, files in (("dark", kinds()), ("light", odd())):
        for name, content in files.items():
            (photos / "train" / folder / name).write_bytes(content)
    results = []
    for workers in (0, 3):
        (photos / NAME).unlink(missing_ok=True)
        results.append(ca.train(run(photos), out=tmp_path / f"{workers}", workers=workers))
    assert len(kinds()) >= 15
    assert sorted(Path(line["file"]).name for line in unread(tmp_path / "0")) == sorted(kinds())
    listed = [json.loads(line)["file"] for line in (photos / NAME).read_text().splitlines()]
    assert sorted(Path(file).name for file in listed) == sorted(kinds())
    assert weights(tmp_path / "0") == weights(tmp_path / "3")


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_run_meets_the_broken_files_as_the_run_that_was_never_stopped(
    photos: Path, tmp_path: Path, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut_short(photos)
    ca.train(run(photos), out=tmp_path / "whole")
    (photos / NAME).unlink()
    real, sent = loop.is_due, list[int]()

    def due(step: int, every: int, last: int) -> bool:
        if step == 6 and not sent:  # seen during the step that follows
            sent.append(step)
            signal.raise_signal(signal.SIGTERM)
        return real(step, every, last)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "is_due", due)
        with pytest.raises(StoppedBySignal, match="saved at step 7"):
            ca.train(run(photos), out=tmp_path / "stopped")
    ca.train(run(photos), out=tmp_path / "stopped", workers=workers)
    assert weights(tmp_path / "stopped") == weights(tmp_path / "whole")
    assert (tmp_path / "stopped" / "metrics.jsonl").read_bytes() == (tmp_path / "whole" / "metrics.jsonl").read_bytes()


def test_by_the_policy_fail_the_first_broken_file_ends_the_run(photos: Path, tmp_path: Path) -> None:
    cut_short(photos)
    with pytest.raises(UserError, match=r"(dark|light)/\d+\.jpg: .*Premature end.*--set broken=skip"):
        ca.train(run(photos, broken="fail"), out=tmp_path / "run")


def test_more_than_fifty_broken_files_end_the_run_in_one_sentence(photos: Path, tmp_path: Path) -> None:
    for file in sorted((photos / "train").rglob("*.jpg"))[:60]:
        file.write_bytes(b"\xff\xd8\xff\xe0")
    with pytest.raises(UserError, match=r"more than 50 of \d+ images cannot be read, .*jpg first .*data check"):
        ca.train(run(photos), out=tmp_path / "run")
