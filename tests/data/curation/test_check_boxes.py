"""Boxes are counted, and everything that is wrong with them is listed with file and reason."""

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.digit_boxes import write_split
from PIL import Image

from convatlas.data.curation.box_statistics import box_statistics, draw_box_sheet
from convatlas.data.curation.check_boxes import BoxReport, check_boxes
from convatlas.data.sources.box_folder import open_boxes


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_split(tmp_path / "digits" / "train", 9, 0)
    write_split(tmp_path / "digits" / "val", 5, 1)
    return tmp_path / "digits"


def edit(folder: Path, split: str, change: Callable[[dict[str, Any]], None]) -> None:
    file = folder / split / "boxes.json"
    document = json.loads(file.read_text())
    change(document)
    file.write_text(json.dumps(document))


def check(folder: Path) -> BoxReport:
    return check_boxes(open_boxes(f"folder:{folder}", on_bad="skip"), workers=2)


def test_a_sound_set_is_counted(folder: Path) -> None:
    report = check(folder)
    assert report.ok
    assert report.bad == report.notes == []
    assert report.split_notes == []
    assert report.statistics.images == report.statistics.objects == {"train": 9, "val": 5}
    assert report.statistics.classes == {
        "zero": {"train": 3, "val": 2},
        "one": {"train": 3, "val": 2},
        "two": {"train": 3, "val": 1},
    }
    assert report.statistics.sizes["largest"][:2] == (90, 72)
    smallest, largest = (report.statistics.box_sizes[rank] for rank in ("smallest", "largest"))
    assert 34 <= smallest[0] == smallest[1] <= largest[0] < 52


BAD = {
    "inverted": [5, 5, -3, 9],
    "has no area": [5, 5, 0, 9],
    "outside the image of 90x72": [80, 5, 30, 9],
    "is not finite": [5, 5, None, 9],
}


def test_every_bad_kind_is_listed_with_file_and_reason(folder: Path) -> None:
    def change(document: dict[str, Any]) -> None:
        for annotation, box in zip(document["annotations"], BAD.values(), strict=False):
            annotation["bbox"] = box
        document["annotations"][4]["category_id"] = 77
        document["annotations"][5]["image_id"] = 99
        document["images"][6]["width"] = 95
        document["images"][7]["file_name"] = "images/nowhere.png"

    edit(folder, "train", change)
    (folder / "val" / "images" / "2.png").write_bytes(b"no image")
    report = check(folder)
    assert not report.ok
    reasons = {file.removeprefix(f"{folder}/"): text for file, text in report.bad}
    for number, text in enumerate(BAD):
        assert text in reasons[f"train/boxes.json, annotations[{number}] (image {number})"]
    assert "category_id 77" in reasons["train/boxes.json, annotations[4] (image 4)"]
    assert "image_id 99" in reasons["train/boxes.json, annotations[5] (image 99)"]
    assert reasons["train/images/6.png"].startswith("it has 90x72 pixels (upright), its annotations are for")
    assert "does not exist" in reasons["train/boxes.json, image 7 (images/nowhere.png)"]
    assert reasons["val/images/2.png"].startswith("not a readable")
    assert len(report.bad) == 9
    assert report.statistics.images == {"train": 3, "val": 5}  # what no annotation excludes


def test_what_is_odd_is_noted(folder: Path) -> None:
    def change(document: dict[str, Any]) -> None:
        document["annotations"].append(document["annotations"][0])
        document["annotations"][1]["iscrowd"] = 1
        del document["annotations"][3]

    edit(folder, "train", change)
    shutil.copy(folder / "train" / "images" / "4.png", folder / "val" / "images" / "0.png")
    report = check(folder)
    assert report.ok
    first, second = report.notes
    assert first.file == f"{folder}/train/images/0.png"
    assert first.text.startswith("2 objects of class zero have the box (")
    assert second.file == f"{folder}/val/images/0.png"
    assert second.text == f"in val, and with the same bytes in train: {folder}/train/images/4.png"
    assert report.split_notes == [
        "1 images of train show no object: they are background",
        "1 objects of train are crowds or difficult: neither targets nor background",
    ]
    assert report.statistics.ignored == {"train": 1, "val": 0}
    assert report.statistics.objects == {"train": 8, "val": 5}


def test_what_prevents_a_training_is_said(folder: Path) -> None:
    def without_twos(document: dict[str, Any]) -> None:
        document["annotations"] = [item for item in document["annotations"] if item["category_id"] != 2]

    edit(folder, "val", without_twos)
    assert check(folder).split_notes[1] == "val has no objects of two"
    edit(folder, "train", without_twos)
    assert check(folder).training_error == "train has no object of class two: add some, or remove the class"
    shutil.rmtree(folder / "train")
    assert check(folder).training_error == f"folder:{folder} has val but no train images"


def test_the_sheet_shows_images_with_their_boxes(folder: Path) -> None:
    (folder / "train" / "images" / "0.png").write_bytes(b"no image")
    dataset = open_boxes(f"folder:{folder}")
    image = Image.open(io.BytesIO(draw_box_sheet(dataset, seed=1)))
    colors = {tuple(color) for color in np.asarray(image.convert("RGB")).reshape(-1, 3)}
    assert {(230, 159, 0), (86, 180, 233), (0, 158, 115)} <= colors  # of the three classes
    assert draw_box_sheet(dataset, seed=1) == draw_box_sheet(dataset, seed=1)
    assert box_statistics(dataset).classes["zero"] == {"train": 3, "val": 2}
