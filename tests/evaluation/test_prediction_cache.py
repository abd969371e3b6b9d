"""The cache of predictions: what it serves, what it computes again, and what it reports."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.ensemble_members import (
    NUM_TEST_IMAGES,
    forbid_evaluation,
    make_classifier,
    make_photos,
    make_run,
    write_classifier,
)
from PIL import Image

import convatlas as ca
from convatlas import models
from convatlas.data.transforms.preprocessing import center_crop_preprocessing
from convatlas.evaluation import prediction_cache
from convatlas.evaluation.predictions import read_predictions, write_predictions


def is_cached(document: dict[str, Any]) -> bool:
    cached: bool = document["members"][0]["cached"]
    return cached


def without_cached(document: dict[str, Any]) -> dict[str, Any]:
    members = [{key: member[key] for key in member if key != "cached"} for member in document["members"]]
    return document | {"members": members}


def test_cached_predictions_are_used_without_running_a_network(
    runs: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    computed = {crops: ca.evaluate(runs[:2], crops=crops) for crops in ("center", "10")}
    for document in computed.values():
        assert not any(member["cached"] for member in document["members"])
    forbid_evaluation(monkeypatch)
    for crops, document in computed.items():
        cached = ca.evaluate(runs[:2], crops=crops)
        assert all(member["cached"] for member in cached["members"])
        assert without_cached(cached) == without_cached(document)
    with pytest.raises(AssertionError, match="a network was run"):
        ca.evaluate(runs[:2], crops="12")


def test_other_weights_are_evaluated_and_replace_the_entry(runs: list[Path]) -> None:
    before = ca.evaluate(runs[0])
    assert is_cached(ca.evaluate(runs[0]))
    classifier = ca.load(runs[0])
    with torch.no_grad():
        classifier.model.get_parameter("fc.bias")[0] += 1e-3
    write_classifier(runs[0] / "model.safetensors", classifier)
    after = ca.evaluate(runs[0])
    assert not is_cached(after)
    assert after["loss"] != before["loss"]
    assert len([*(runs[0] / "predictions").iterdir()]) == 1


def test_another_preprocessing_is_evaluated_again(runs: list[Path]) -> None:
    ca.evaluate(runs[0])
    classifier = ca.load(runs[0])
    preprocessing = center_crop_preprocessing(3, (32, 32))
    assert preprocessing != classifier.metadata.preprocessing
    classifier.metadata = classifier.metadata.replace(preprocessing=preprocessing)
    write_classifier(runs[0] / "model.safetensors", classifier)
    assert not is_cached(ca.evaluate(runs[0]))


def test_changed_data_and_another_split_are_evaluated_again(tmp_path: Path) -> None:
    name = make_photos(tmp_path / "photos")
    run = make_run(tmp_path / "run", make_classifier(0, data=name))
    ca.evaluate(run)
    Image.new("RGB", (40, 40), "red").save(tmp_path / "photos" / "test" / "cat" / "cat0.png")
    assert not is_cached(ca.evaluate(run))
    assert not is_cached(ca.evaluate(run, split="val"))
    assert is_cached(ca.evaluate(run))


def test_another_edition_of_the_network_is_evaluated_again(photos: str, tmp_path: Path) -> None:
    classifier = make_classifier(0, "resnet50", data=photos)
    run = make_run(tmp_path / "run", classifier)
    ca.evaluate(run)
    arguments = classifier.metadata.network.arguments
    network = models.Architecture("resnet50", "torchvision", arguments)
    classifier.metadata = classifier.metadata.replace(network=network)
    write_classifier(run / "model.safetensors", classifier)
    assert not is_cached(ca.evaluate(run))


def test_predictions_that_would_fill_a_disk_are_not_cached(
    runs: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prediction_cache, "MAX_BYTES", NUM_TEST_IMAGES * 6 * 4 - 1)
    assert "are not cached" in ca.evaluate(runs[0])["notes"][0]
    assert not (runs[0] / "predictions").exists()


@pytest.mark.parametrize("damage", ["cut", "other format", "a folder"])
def test_a_damaged_entry_is_computed_again(damage: str, runs: list[Path]) -> None:
    before = ca.evaluate(runs[0])
    file = next((runs[0] / "predictions").iterdir())
    content = file.read_bytes()
    if damage == "a folder":
        file.unlink()
        file.mkdir()
    else:
        file.write_bytes(content[:-9] if damage == "cut" else b"{}" + content)
    document = ca.evaluate(runs[0])
    assert not is_cached(document)
    assert "the network was evaluated again" in document["notes"][0]
    assert document["top1"] == before["top1"]


def test_an_evaluation_succeeds_where_nothing_can_be_cached(runs: list[Path]) -> None:
    (runs[0] / "predictions").write_text("a file in the place of the folder")
    document = ca.evaluate(runs[0])
    assert "could not be cached" in document["notes"][0]
    assert document["n"] == NUM_TEST_IMAGES


def test_an_entry_of_another_environment_is_used_with_a_note(runs: list[Path]) -> None:
    ca.evaluate(runs[0])
    file = next((runs[0] / "predictions").iterdir())
    predictions = read_predictions(file)
    assert predictions.metadata is not None
    environment = predictions.metadata.environment | {"torch": "1.0"}
    assert ca.evaluate(runs[0])["notes"] == []
    metadata = predictions.metadata.replace(environment=environment)
    write_predictions(file, replace(predictions, metadata=metadata))
    document = ca.evaluate(runs[0])
    assert is_cached(document)
    (note,) = document["notes"]
    assert "another environment (torch: " in note


def test_a_single_file_has_its_cache_beside_it(photos: str, tmp_path: Path) -> None:
    classifier = make_classifier(0, data=photos)
    for name in ("model.safetensors", "best.safetensors"):
        ca.evaluate(write_classifier(tmp_path / name, classifier))
    folders = {path.parent.name for path in tmp_path.glob("*/*.safetensors")}
    assert folders == {"predictions", "best-predictions"}


def test_unreadable_images_are_listed_and_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = make_photos(tmp_path / "photos")
    (tmp_path / "photos" / "test" / "dog" / "dog1.png").write_bytes(b"torn")
    runs = [make_run(tmp_path / f"run{seed}", make_classifier(seed, data=name)) for seed in range(2)]
    computed = ca.evaluate(runs, crops="10")
    forbid_evaluation(monkeypatch)
    for document in (computed, ca.evaluate(runs, crops="10")):
        assert document["n"] == NUM_TEST_IMAGES - 1
        (unreadable,) = document["unreadable"]
        assert unreadable["file"].endswith("dog1.png")
        assert "not a readable" in unreadable["reason"]
