"""Folders with boxes: splits by their names, classes of all splits together."""

import json
from pathlib import Path

import numpy as np
import pytest
from helpers.digit_boxes import write_split
from PIL import Image

from convatlas.data import open_dataset
from convatlas.data.sources.box_folder import is_box_folder, open_boxes
from convatlas.errors import UsageError, UserError


def write_voc(folder: Path, classes: dict[str, str]) -> None:
    """Images of 40x30 with an object each, by the names of the images."""
    for name in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (folder / name).mkdir(parents=True)
    for name, class_name in classes.items():
        box = "<bndbox><xmin>1</xmin><ymin>3</ymin><xmax>10</xmax><ymax>20</ymax></bndbox>"
        size = "<size><width>40</width><height>30</height></size>"
        text = f"<object><name>{class_name}</name>{box}</object>"
        (folder / "Annotations" / f"{name}.xml").write_text(
            f"<annotation><filename>{name}.jpg</filename>{size}{text}</annotation>"
        )
        Image.new("RGB", (40, 30)).save(folder / "JPEGImages" / f"{name}.jpg")


def rename_categories(file: Path, names: list[str]) -> None:
    document = json.loads(file.read_text())
    document["categories"] = [{"id": index, "name": name} for index, name in enumerate(names)]
    file.write_text(json.dumps(document))


def test_splits_are_told_by_their_names_and_share_their_classes(tmp_path: Path) -> None:
    for name, count in (("testing", 4), ("train", 6), ("validation", 3)):
        write_split(tmp_path / name, count, 0)
    rename_categories(tmp_path / "testing" / "boxes.json", ["two", "zero", "nine"])
    dataset = open_boxes(f"folder:{tmp_path}")
    assert dataset.name == f"folder:{tmp_path}"
    assert [(name, len(part.images)) for name, part in dataset.splits.items()] == [
        ("train", 6),
        ("val", 3),
        ("test", 4),
    ]
    assert dataset.classes == ("zero", "one", "two", "nine")
    assert [int(image.labels[0]) for image in dataset.splits["train"].images[:3]] == [0, 1, 2]
    assert [int(image.labels[0]) for image in dataset.splits["test"].images] == [2, 0, 3, 2]
    assert dataset.splits["test"].classes == dataset.classes


def test_a_folder_without_splits_is_all_of_them(tmp_path: Path) -> None:
    write_split(tmp_path / "data", 3, 0)
    assert [*open_boxes(f"folder:{tmp_path / 'data'}").splits] == ["all"]


def test_vocs_lists_are_its_splits(tmp_path: Path) -> None:
    write_voc(tmp_path / "voc", {"a": "cat", "b": "dog", "c": "ant"})
    lists = tmp_path / "voc" / "ImageSets" / "Main"
    assert [*open_boxes(f"folder:{tmp_path / 'voc'}").splits] == ["all"]
    (lists / "train.txt").write_text("b\na\n")
    (lists / "cat_train.txt").write_text("a 1\n")
    (lists / "val.txt").write_text("c\n")
    dataset = open_boxes(f"folder:{tmp_path / 'voc'}")
    assert [*dataset.splits] == ["train", "val"]
    assert dataset.classes == ("cat", "dog", "ant")
    assert dataset.splits["val"].images[0].labels.tolist() == [2]
    np.testing.assert_array_equal(dataset.splits["val"].images[0].boxes, [[0, 2, 10, 20]])


def test_what_holds_no_boxes_says_what_is_expected(tmp_path: Path) -> None:
    assert not is_box_folder(tmp_path / "nowhere")
    for name in ("nowhere", "."):
        with pytest.raises(UserError, match=r"holds no boxes: expected PATH/train/boxes\.json"):
            open_boxes(f"folder:{tmp_path / name}")
    for other in ("digits", "folder:", "manifest:x.csv"):
        with pytest.raises(UsageError, match="boxes are read from folder:PATH, not from"):
            open_boxes(other)
    with pytest.raises(UsageError, match="data should be a data set's name"):
        open_boxes(3)  # type: ignore[arg-type]
    for name in ("val", "valid"):
        write_split(tmp_path / name, 2, 0)
    with pytest.raises(UserError, match="holds val and valid, which are both the val split"):
        open_boxes(f"folder:{tmp_path}")


def test_a_training_on_boxes_alone_is_told_where_they_are_learned(digit_boxes: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"its boxes are for ca\.boxes\.train_detector"):
        open_dataset(f"folder:{digit_boxes}")
    write_voc(tmp_path / "voc", {"a": "cat"})
    with pytest.raises(UserError, match=r"PASCAL VOC's layout: its boxes are for ca\.boxes\.train_detector"):
        open_dataset(f"folder:{tmp_path / 'voc'}")
