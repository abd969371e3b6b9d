"""From a name to a classifier: what a training leaves in its folder, and what its classifier does."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import convatlas as ca
from convatlas import models
from convatlas.classifier.training_images import FILE_NAME, read_training_images
from convatlas.data import open_dataset
from convatlas.errors import UserError
from convatlas.evaluation.predictions import FILE as PREDICTIONS_FILE
from convatlas.storage import checked_safetensors
from convatlas.storage.json_lines import read_json_lines
from convatlas.training.progress import ThroughputMeter
from convatlas.training.run_folder import read_run_folder


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> ca.Result:
    """The quick training of LeNet-5 on digits."""
    run = ca.Run(model="lenet5", data="digits")
    return ca.train(run, out=tmp_path_factory.mktemp("trained") / "run")


def digit_image(index: int) -> Image.Image:
    """A test image of digits, grey."""
    images = open_dataset("digits").splits["test"].images
    return Image.fromarray(images.image(index).decode(1, (0, 0))[:, :, 0])


# The run's folder


def test_quick_makes_a_good_classifier_of_digits(result: ca.Result) -> None:
    assert result.metrics["test_top1"] > 93
    assert result.metrics["test_n"] == 180


def test_the_folder_holds_the_files_of_the_interface(result: ca.Result) -> None:
    names = {path.name for path in result.out.iterdir()}
    assert {"run.json", "metrics.jsonl", "timing.jsonl", "checkpoints", "report.md"} <= names
    assert {"model.safetensors", "training_images.safetensors"} <= names
    assert {"batch.png", "curves.png", "confusion.png", "filters.png", "grad_cam.png"} <= names
    assert len(list((result.out / "checkpoints").iterdir())) == 2
    assert (result.out / PREDICTIONS_FILE).is_file()


def test_the_result_is_that_of_the_run_in_the_folder(result: ca.Result) -> None:
    run_file = read_run_folder(result.out)
    assert run_file is not None
    assert run_file.run.id == result.run_id
    assert run_file.environment["ranks"] == 1


def test_the_log_ends_with_one_line_for_the_test_split(result: ca.Result) -> None:
    lines = [json.loads(line) for line in read_json_lines(result.out / "metrics.jsonl")]
    assert [line.get("split") for line in lines].count("test") == 1
    assert lines[-1]["split"] == "test"
    assert lines[-1]["top1"] == result.metrics["test_top1"]
    checkpoints = [line for line in lines if line.get("event") == "checkpoint"]
    assert checkpoints
    assert all(len(line["weights_sha256"]) == 64 and "split" not in line for line in checkpoints)
    assert all("split" in line or "event" in line for line in lines)


def test_the_file_of_training_images_holds_exactly_the_train_split(result: ca.Result) -> None:
    splits = open_dataset("digits").splits
    assert len(splits["train"].content_hashes) == 1438
    train, val, test = (
        {bytes(content_hash).rstrip(b"\0") for content_hash in splits[name].content_hashes}
        for name in ("train", "val", "test")
    )
    stored = read_training_images(result.out / FILE_NAME, result.run_id)
    assert stored == train
    assert not train & (val | test)
    tensors, document = checked_safetensors.read_checked(result.out / FILE_NAME)
    assert len(tensors["content_hashes"]) == 1438
    assert json.loads(document)["run"] == result.run_id


def test_the_report_shows_only_images_that_exist(result: ca.Result) -> None:
    text = result.report.read_text()
    names = [link.split(")")[0] for link in text.split("](")[1:]]
    assert names
    assert all((result.out / name).exists() for name in names)
    assert f"{result.metrics['test_top1']:.2f} %" in text


def test_the_rate_of_training_leaves_validation_out(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0

    def spend(seconds: float) -> None:
        nonlocal now
        now += seconds

    def batches() -> Iterator[None]:
        for _ in range(3):
            spend(1)
            yield

    monkeypatch.setattr("convatlas.training.progress.time.monotonic", lambda: now)
    meter = ThroughputMeter()
    for _ in meter.timed(batches()):
        spend(3)
    with meter.paused():
        spend(100)
    assert meter.read(batch_size=8) == {
        "seconds": 112,
        "images_per_second": 3 * 8 / 12,
        "data_wait": 3 / 12,
    }
    for _ in meter.timed(batches()):
        spend(1)
    assert meter.read(batch_size=8) == {"seconds": 6, "images_per_second": 3 * 8 / 6, "data_wait": 3 / 6}


# The classifier


def test_evaluating_again_gives_the_very_digits_of_the_training(result: ca.Result) -> None:
    evaluation = ca.evaluate(ca.load(result.out))
    for key in ("top1", "loss", "n"):
        assert evaluation[key] == result.metrics[f"test_{key}"]


def test_a_classifier_predicts_from_files_of_any_mode(result: ca.Result, tmp_path: Path) -> None:
    labels = open_dataset("digits").splits["test"].labels[:20]
    files = [tmp_path / f"{index}.png" for index in range(20)]
    for index, file in enumerate(files):
        image = digit_image(index)
        (image if index % 2 else image.convert("RGB")).save(file)
    classifier = ca.load(result.out / "model.safetensors")
    predictions = classifier.predict(files, top=3)
    assert [len(classes) for classes in predictions] == [3] * 20
    correct = [int(classes[0][0]) == label for classes, label in zip(predictions, labels, strict=True)]
    assert np.mean(correct) >= 0.9
    probabilities = [probability for _, probability in classifier.predict(files[:1], top=10)[0]]
    assert sum(probabilities) == pytest.approx(1, abs=1e-5)
    with pytest.raises(UserError, match=r"nothing\.png"):
        classifier.predict([tmp_path / "nothing.png"])


def test_classes_are_matched_by_name(result: ca.Result, tmp_path: Path) -> None:
    labels = open_dataset("digits").splits["test"].labels
    for label in (9, 3, 5):  # three of the ten, so that the folder's order and the label differ
        for split in ("train", "val", "test"):
            folder = tmp_path / split / str(label)
            folder.mkdir(parents=True)
            for index in np.flatnonzero(labels == label).tolist():
                digit_image(index).save(folder / f"{index}.png")
    assert ca.evaluate(ca.load(result.out), f"folder:{tmp_path}")["top1"] > 85
    for split in ("train", "val", "test"):
        (tmp_path / split / "3").rename(tmp_path / split / "three")
    with pytest.raises(UserError, match="'three' first"):
        ca.evaluate(ca.load(result.out), f"folder:{tmp_path}")


def test_a_folder_of_photographs_is_the_same_training_with_workers(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name, brightness in (("dark", 60), ("light", 190)):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(40):
            pixels = rng.integers(brightness - 50, brightness + 50, size=(40, 50, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{number}.jpg")
    architecture = models.get_architecture("resnet20_cifar", width=0.5, image_size=16)
    run = ca.Run(model=architecture, data=f"folder:{tmp_path / 'photos'}")
    run = run.replace(recipe=run.recipe.replace(batch=16))
    alone = ca.train(run, out=tmp_path / "alone", workers=0)
    with_workers = ca.train(run, out=tmp_path / "with_workers", workers=2)
    assert alone.metrics == with_workers.metrics
    assert alone.metrics["test_top1"] == 100
    assert ca.load(alone.out).metadata.classes == ("dark", "light")


# The model file


def rewrite_metadata(source: Path, target: Path, **changes: object) -> Path:
    tensors, document = checked_safetensors.read_checked(source / "model.safetensors")
    checked_safetensors.write_checked(target, tensors, json.loads(document) | changes)
    return target


def network_document(name: str, **arguments: object) -> dict[str, object]:
    return {"name": name, "edition": "paper", "arguments": arguments}


def preprocessing_document(resize: int, input_size: int, mode: str) -> dict[str, object]:
    return {
        "channels": 1,
        "resize_size": [resize, resize],
        "input_size": [input_size, input_size],
        "mode": mode,
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 99}, "format version 99: this ConvAtlas reads version 2"),
        ({"classes": ["a", "b"]}, "names 2 classes but its network has 10"),
        ({"network": network_document("lenet5")}, "names 10 classes but its network has None"),
        ({"network": network_document("lenet9", num_classes=10)}, "unknown network 'lenet9'"),
        ({"surprise": 1}, "unknown field `surprise`"),
        ({"precision": "fp64"}, r"Invalid enum value 'fp64' - at `\$\.precision`"),
        ({"batch": 10**9}, "gives 1000000000 as its evaluation's batch: expected 1 to 65,536"),
        ({"classes": ["a"] * 10}, "names a class twice"),
        (
            {"preprocessing": preprocessing_document(8, 9, "crop")},
            "8x8 pixels do not become 9x9 by 'crop' - at",
        ),
        (
            {"preprocessing": preprocessing_document(8, 0, "resize")},
            "input_size should be from 1 to 8,192 pixels a side, not 0x0",
        ),
    ],
)
def test_a_model_file_that_contradicts_itself_is_refused(
    result: ca.Result, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        ca.load(rewrite_metadata(result.out, tmp_path / "model.safetensors", **changes))


def test_weights_that_are_not_finite_or_of_another_network_are_refused(
    result: ca.Result, tmp_path: Path
) -> None:
    tensors, document = checked_safetensors.read_checked(result.out / "model.safetensors")
    metadata = json.loads(document)
    file = tmp_path / "model.safetensors"
    not_finite = tensors | {"F6.0.bias": torch.full((84,), torch.nan)}
    checked_safetensors.write_checked(file, not_finite, metadata)
    with pytest.raises(UserError, match="not finite"):
        ca.load(file)
    del tensors["F6.0.bias"]
    checked_safetensors.write_checked(file, tensors, metadata)
    with pytest.raises(UserError, match="does not hold the weights of the lenet5"):
        ca.load(file)
