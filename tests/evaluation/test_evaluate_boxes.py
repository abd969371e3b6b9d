"""`eval` of a detector: its scores are those of its detections, and what cannot be counted is named."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import convatlas as ca
from convatlas.boxes.detections import image_truths
from convatlas.classifier import Classifier
from convatlas.errors import UsageError, UserError

Edit = Callable[[Callable[[dict[str, Any]], None]], str]


@pytest.fixture
def edit(digit_boxes: Path, tmp_path: Path) -> Edit:
    """Change the test annotations in a copy of the digits: the copy's name."""

    def apply(change: Callable[[dict[str, Any]], None]) -> str:
        shutil.copytree(digit_boxes, tmp_path / "data")
        file = tmp_path / "data" / "test" / "boxes.json"
        document = json.loads(file.read_text())
        change(document)
        file.write_text(json.dumps(document))
        return f"folder:{tmp_path / 'data'}"

    return apply


def test_the_document_holds_the_scores_of_the_detections(
    detector: ca.Detector, detector_folder: Path, digit_boxes: Path
) -> None:
    document = ca.evaluate(detector_folder)
    images = ca.boxes.open_boxes(f"folder:{digit_boxes}").splits["test"].images
    detections = [detector.detect(image.file) for image in images]
    truths = [image_truths(image) for image in images]
    assert {key: document[key] for key in ca.boxes.box_scores(detections, truths, 3)} == (
        ca.boxes.box_scores(detections, truths, 3)
    )
    assert document["ap50"] > 50
    assert document["ap50_interval"][0] < document["ap50"] < document["ap50_interval"][1]
    by_class = [row["ap50"] for row in document["per_class"]]
    assert document["ap50"] == pytest.approx(np.mean(by_class))
    assert [row["objects"] for row in document["per_class"]] == [4, 4, 4]
    assert (document["n"], document["objects"], document["split"]) == (12, 12, "test")
    assert document["data"] == f"folder:{digit_boxes}"
    assert document["unreadable"] == document["notes"] == []
    assert ca.evaluate(detector, f"folder:{digit_boxes}", split="val")["n"] == 3


def test_classes_are_matched_by_name(detector: ca.Detector, edit: Edit) -> None:
    """The same boxes under other ids, in another order, of images without the class two."""

    def change(document: dict[str, Any]) -> None:
        document["categories"] = [{"id": 5, "name": "one"}, {"id": 9, "name": "zero"}]
        ids = {0: 9, 1: 5}
        document["annotations"] = [
            item | {"category_id": ids[item["category_id"]]}
            for item in document["annotations"]
            if item["category_id"] in ids
        ]

    reference = ca.evaluate(detector)
    document = ca.evaluate(detector, edit(change))
    assert document["objects"] == 8
    assert document["per_class"][2] == {"name": "two", "objects": 0, "ap50": None}
    assert document["notes"] == [
        "test has no object of 1 of the detector's 3 classes: two; they have no part in the mean"
    ]
    for row, other in zip(document["per_class"][:2], reference["per_class"], strict=False):
        assert row == other


def test_what_cannot_be_counted_is_named(detector: ca.Detector, edit: Edit, tmp_path: Path) -> None:
    def change(document: dict[str, Any]) -> None:
        document["annotations"][3]["bbox"] = [0, 0, -5, 5]
        document["images"][4]["width"] = 91

    name = edit(change)
    (tmp_path / "data" / "test" / "images" / "7.png").write_bytes(b"no image")
    document = ca.evaluate(detector, name)
    assert document["n"] == 9
    reasons = [(entry["file"].rpartition("/")[2], entry["reason"]) for entry in document["unreadable"]]
    assert reasons[0] == ("boxes.json, annotations[3] (image 3)", "the box (0, 0, -5, 5) is inverted")
    assert reasons[1][0] == "4.png"
    assert "its annotations are for 91x72" in reasons[1][1]
    assert reasons[2][0] == "7.png"
    assert reasons[2][1].startswith("not a readable")


def test_what_makes_no_sense_is_refused(
    detector: ca.Detector,
    detector_folder: Path,
    trained: Classifier,
    trained_run: Path,
    edit: Edit,
    tmp_path: Path,
) -> None:
    several: tuple[list[Any], ...] = (
        [detector, detector],
        [detector_folder, trained_run],
        [trained, detector],
    )
    for weights in several:
        with pytest.raises(UsageError, match="give one detector by itself"):
            ca.evaluate(weights)
    with pytest.raises(UsageError, match="leave out --crops 10"):
        ca.evaluate(detector, crops="10")
    with pytest.raises(UsageError, match="leave out --subsets"):
        ca.evaluate(detector, subsets=True)
    with pytest.raises(UsageError, match=r"leave out --subset$"):
        ca.evaluate(detector, subset="list.txt")
    with pytest.raises(UsageError, match="unknown split 'tets': the nearest is 'test'"):
        ca.evaluate(detector, split="tets")
    with pytest.raises(UsageError, match="boxes are read from folder:PATH, not from digits"):
        ca.evaluate(detector, "digits")
    with pytest.raises(UserError, match=r"holds no boxes: expected PATH/train/boxes\.json"):
        ca.evaluate(detector, f"folder:{tmp_path}")
    name = edit(lambda document: document["categories"][1].update(name="seven"))
    with pytest.raises(UsageError, match="has 1 classes that the detector lacks, 'seven' first"):
        ca.evaluate(detector, name)
    file = tmp_path / "data" / "test" / "boxes.json"
    document = json.loads(file.read_text())
    document["categories"][1]["name"] = "one"
    file.write_text(json.dumps(document | {"annotations": []}))
    with pytest.raises(UserError, match="no image with an object"):
        ca.evaluate(detector, name, split="test")
    file.unlink()
    with pytest.raises(UsageError, match="has train, val but no test images: choose with --split"):
        ca.evaluate(detector, name)
