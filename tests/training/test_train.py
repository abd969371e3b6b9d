"""From a name to a classifier."""

import errno
import json
from collections.abc import Iterator
from pathlib import Path
from threading import Event

import numpy as np
import pytest
import torch
from helpers.crash_disk import RecordingDisk
from helpers.small_runs import small_run
from PIL import Image

import convatlas as ca
from convatlas import models
from convatlas.data import open_dataset
from convatlas.data.dataset import ArrayImages
from convatlas.data.transforms.normalize import PixelRange
from convatlas.data.transforms.preprocessing import fixed_size_preprocessing
from convatlas.errors import UserError
from convatlas.optim.optimizers import SGD
from convatlas.storage import checked_safetensors
from convatlas.storage.atomic import FileOps
from convatlas.storage.checked_safetensors import hash_tensors
from convatlas.training import progress
from convatlas.training.objective import Objective
from convatlas.training.resolve import resolve_run
from convatlas.training.run_folder import TrainState, open_folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> ca.Result:
    run = ca.Run(model="lenet5", data="digits")
    return ca.train(run, out=tmp_path_factory.mktemp("trained") / "run")


def test_quick_makes_a_good_classifier_of_digits(trained: ca.Result) -> None:
    assert trained.metrics["test_top1"] > 93
    assert trained.metrics["test_n"] == 180


def test_the_folder_holds_what_the_interface_says(trained: ca.Result) -> None:
    names = {path.name for path in trained.out.iterdir()}
    assert {"run.json", "metrics.jsonl", "timing.jsonl", "checkpoints", "model.safetensors", "report.md"} <= names
    assert {"batch.png", "curves.png", "confusion.png", "filters.png", "grad_cam.png"} <= names
    assert len(list((trained.out / "checkpoints").iterdir())) == 2
    lines = [json.loads(line) for line in (trained.out / "metrics.jsonl").read_text().splitlines()]
    assert [line["split"] for line in lines].count("test") == 1
    assert lines[-1]["split"] == "test"


def test_the_rate_that_is_shown_leaves_validation_out(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0

    def spend(seconds: float) -> None:
        nonlocal now
        now += seconds

    def batches() -> Iterator[None]:
        for _ in range(3):
            spend(1)
            yield

    monkeypatch.setattr("convatlas.training.progress.time.monotonic", lambda: now)
    clock = progress.ThroughputMeter(progress.NullDisplay())
    for _ in clock.timed(batches()):
        spend(3)
    with clock.paused():
        spend(100)
    assert clock.read(batch=8) == (3 * 8 / 12, 3 / 12, 112)
    for _ in clock.timed(batches()):
        spend(1)
    assert clock.read(batch=8) == (3 * 8 / 6, 3 / 6, 6)


def test_the_report_shows_only_pictures_that_are_there(trained: ca.Result) -> None:
    text = trained.report.read_text()
    pictures = [part.split(")")[0] for part in text.split("](")[1:]]
    assert pictures
    assert all((trained.out / name).exists() for name in pictures)
    assert f"{trained.metrics['test_top1']:.2f} %" in text


def test_evaluating_again_gives_the_very_digits_of_the_training(trained: ca.Result) -> None:
    found = ca.evaluate(ca.load(trained.out))
    assert (found["top1"], found["loss"], found["n"]) == tuple(trained.metrics[f"test_{key}"] for key in ("top1", "loss", "n"))


def test_a_classifier_predicts_from_files_of_any_size(trained: ca.Result, tmp_path: Path) -> None:
    test = open_dataset("digits").splits["test"]
    files = []
    for i in range(20):
        image = Image.fromarray(test.images.image(i).decode(1, (0, 0))[:, :, 0])
        files.append(tmp_path / f"{i}.png")
        (image if i % 2 else image.convert("RGB")).save(files[-1])
    classifier = ca.load(trained.out / "model.safetensors")
    answers = classifier.predict(files, top=3)
    assert all(len(answer) == 3 for answer in answers)
    assert np.mean([int(answer[0][0]) == label for answer, label in zip(answers, test.labels[:20], strict=True)]) >= 0.9
    assert sum(p for _, p in classifier.predict(files[:1], top=10)[0]) == pytest.approx(1, abs=1e-5)
    with pytest.raises(UserError, match=r"nothing\.png"):
        classifier.predict([tmp_path / "nothing.png"])


def _rewritten(source: Path, target: Path, **changes: object) -> Path:
    tensors, document = checked_safetensors.read_checked(source / "model.safetensors")
    checked_safetensors.write_checked(target, tensors, json.loads(document) | changes)
    return target


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "format version 2: this ConvAtlas reads version 1"),
        ({"classes": ["a", "b"]}, "names 2 classes but its network has 10"),
        ({"network": {"name": "lenet9", "edition": "paper", "arguments": {}}}, "10|unknown network"),
        ({"surprise": 1}, "unknown field `surprise`"),
        ({"precision": "fp64"}, "precision"),
        ({"batch": 10**9}, "evaluated 1000000000 images at once: expected 1 to 65,536"),
        ({"classes": ["a"] * 10}, "names a class twice"),
        (
            {"preprocessing": {"channels": 1, "source": [8, 8], "size": [9, 9], "fit": "crop"}},
            "8x8 pixels do not become 9x9 by 'crop' - at",
        ),
        ({"preprocessing": {"channels": 1, "source": [8, 8], "size": [0, 0], "fit": "resize"}}, "from 1 to 8,192 pixels a side, not 0x0"),
    ],
)
def test_a_model_file_that_says_what_cannot_be_is_refused(
    trained: ca.Result, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        ca.load(_rewritten(trained.out, tmp_path / "model.safetensors", **changes))


def test_weights_that_are_not_finite_or_of_another_network_are_refused(trained: ca.Result, tmp_path: Path) -> None:
    tensors, document = checked_safetensors.read_checked(trained.out / "model.safetensors")
    checked_safetensors.write_checked(
        tmp_path / "nan.safetensors", tensors | {"F6.0.bias": torch.full((84,), torch.nan)}, json.loads(document)
    )
    with pytest.raises(UserError, match="not finite"):
        ca.load(tmp_path / "nan.safetensors")
    checked_safetensors.write_checked(
        tmp_path / "other.safetensors", {k: t for k, t in tensors.items() if k != "F6.0.bias"}, json.loads(document)
    )
    with pytest.raises(UserError, match="does not hold the weights of the lenet5"):
        ca.load(tmp_path / "other.safetensors")


def test_classes_are_matched_by_name(trained: ca.Result, tmp_path: Path) -> None:
    test = open_dataset("digits").splits["test"]
    for label in (9, 3, 5):  # three of the ten, so that folder order and label differ
        for part in ("train", "val", "test"):
            (tmp_path / part / str(label)).mkdir(parents=True)
            for i in np.flatnonzero(test.labels == label).tolist():
                Image.fromarray(test.images.image(i).decode(1, (0, 0))[:, :, 0]).save(tmp_path / part / str(label) / f"{i}.png")
    found = ca.evaluate(ca.load(trained.out), f"folder:{tmp_path}")
    assert found["top1"] > 85
    (tmp_path / "test" / "3").rename(tmp_path / "test" / "three")
    (tmp_path / "train" / "3").rename(tmp_path / "train" / "three")
    (tmp_path / "val" / "3").rename(tmp_path / "val" / "three")
    with pytest.raises(UserError, match="'three' first"):
        ca.evaluate(ca.load(trained.out), f"folder:{tmp_path}")


def test_a_folder_of_photographs_is_trained_on_with_workers(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name, value in (("dark", 60), ("light", 190)):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(40):
            pixels = rng.integers(value - 50, value + 50, size=(40, 50, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{i}.jpg")
    run = ca.Run(model=models.get_architecture("resnet20_cifar", width=0.5, image_size=16), data=f"folder:{tmp_path / 'photos'}")
    run = run.replace(recipe=run.recipe.replace(batch=16))
    results = [ca.train(run, out=tmp_path / f"run{workers}", workers=workers) for workers in (0, 2)]
    assert results[0].metrics == results[1].metrics
    assert results[0].metrics["test_top1"] == 100
    assert ca.load(results[0].out).metadata.classes == ("dark", "light")


def begun() -> tuple[ca.Run, Objective, torch.optim.Optimizer]:
    run = resolve_run(small_run(), torch.device("cpu"))[0]
    model = models.create_model("lenet5", width=0.25)
    standardiser = PixelRange(low=0, high=1).fit(
        ArrayImages(np.zeros((1, 1, 8, 8), np.uint8)), fixed_size_preprocessing(1, (8, 8), (32, 32))
    )
    return run, Objective(model, standardiser, run.recipe.loss), SGD(lr=0.1, momentum=0.9).build(model)


class StuckDisk(FileOps):
    """Creates no file before it is let go, and then none if it is full."""

    def __init__(self) -> None:
        self.free, self.full = Event(), False

    def open_new(self, path: Path) -> int:
        if path.parent.name == "checkpoints":
            assert self.free.wait(60)
            if self.full:
                raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return super().open_new(path)


def test_a_checkpoint_is_written_while_the_training_goes_on_and_holds_what_was_then(tmp_path: Path) -> None:
    disk, (run, objective, optimizer) = StuckDisk(), begun()
    objective.model(torch.ones(2, 1, 32, 32)).sum().backward()
    optimizer.step()
    then = hash_tensors(objective.weights())
    with open_folder(tmp_path / "run", run, {}, disk=disk) as folder:
        folder.save(TrainState(1), objective, optimizer, {"step": 1})
        optimizer.step()  # while the disk is stuck
        assert not list(folder.checkpoints.iterdir())
        disk.free.set()
        folder.log(step=2)
        assert [line["step"] for line in folder.lines()] == [1, 2]
        assert folder.lines()[0]["weights"] == then != hash_tensors(objective.weights())
        assert folder.restore(objective, optimizer).step == 1
        assert hash_tensors(objective.weights()) == then


def test_a_disk_that_is_full_is_met_before_the_next_line_and_what_was_saved_stays(tmp_path: Path) -> None:
    disk, (run, objective, optimizer) = StuckDisk(), begun()
    disk.free.set()
    with open_folder(tmp_path / "run", run, {}, disk=disk) as folder:
        folder.save(TrainState(1), objective, optimizer)
        folder.wait()
        disk.full = True
        folder.save(TrainState(2), objective, optimizer)
        with pytest.raises(OSError, match="No space left"):
            folder.log(step=3)
        assert [path.stem for path in folder.checkpoints.iterdir()] == ["00000001"]


def test_after_a_crash_at_any_point_of_saving_a_whole_checkpoint_is_found_and_the_log_agrees(tmp_path: Path) -> None:
    disk, (run, objective, optimizer) = RecordingDisk(), begun()
    with open_folder(tmp_path / "run", run, {"threads": 1}, disk=disk) as folder:
        saved_when = [(len(disk.log), 0)]
        for step in range(1, 7):
            folder.log(step=step, split="train", loss=1.0)
            if step % 2 == 0:
                folder.save(TrainState(step), objective, optimizer)
                folder.wait()
                saved_when.append((len(disk.log), step))
    states = 0
    for number, state in enumerate(disk.crash_states()):
        if not any(path.endswith("run.json") for path in state):
            continue
        states += 1
        at_least = max([step for length, step in saved_when if length <= number // 3], default=0)
        place = tmp_path / f"crash{number}"
        for path, data in state.items():
            target = place / Path(path).relative_to(tmp_path / "run")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
        with open_folder(place, run, {"threads": 1}) as folder:
            found = folder.restore(objective, optimizer).step
            assert found >= at_least
            assert [line["step"] for line in folder.lines()] == list(range(1, found + 1))
            assert not list(place.rglob("*.tmp"))
    assert states > 60
