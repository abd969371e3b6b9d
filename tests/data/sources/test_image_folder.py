"""Folders of images, with and without splits."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from convatlas.data import Split, open_dataset
from convatlas.errors import UserError

RNG = np.random.default_rng(0)


def fill(root: Path, classes: dict[str, int], gray: bool = False) -> None:
    for name, count in classes.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            shape = (12, 16) if gray else (12, 16, 3)
            Image.fromarray(RNG.integers(0, 256, size=shape, dtype=np.uint8)).save(root / name / f"{i}.png")


def contents(split: Split) -> list[bytes]:
    return sorted(split.images.image(i).decode(3, (0, 0)).tobytes() for i in range(len(split)))


def test_without_splits_a_tenth_is_held_out_for_val_and_one_for_test(tmp_path: Path) -> None:
    fill(tmp_path, {"cat": 20, "dog": 30})
    dataset = open_dataset(f"folder:{tmp_path}")
    assert {name: len(split) for name, split in dataset.splits.items()} == {"train": 40, "val": 5, "test": 5}
    assert (dataset.classes, dataset.channels, dataset.size) == (("cat", "dog"), 3, None)
    assert dataset.splits["val"].images.image(0).decode(3, (0, 0)).shape == (12, 16, 3)
    assert any("split off by content" in note for note in dataset.notes)


def test_the_split_follows_content_when_files_are_renamed(tmp_path: Path) -> None:
    fill(tmp_path, {"cat": 20, "dog": 20})
    before = open_dataset(f"folder:{tmp_path}")
    test_images = contents(before.splits["test"])
    for i, file in enumerate(sorted(tmp_path.rglob("*.png"))):
        file.rename(file.with_name(f"renamed-{97 * i % 40}.png"))
    assert contents(open_dataset(f"folder:{tmp_path}").splits["test"]) == test_images


@pytest.mark.parametrize(
    "names", [("train", "val", "test"), ("training", "valid", "testing"), ("Train", "validation", "test")]
)
def test_splits_are_understood_under_their_usual_names(tmp_path: Path, names: tuple[str, str, str]) -> None:
    for name, count in zip(names, (4, 2, 3), strict=True):
        fill(tmp_path / name, {"cat": count, "dog": count}, gray=True)
    dataset = open_dataset(f"folder:{tmp_path}")
    assert {name: len(split) for name, split in dataset.splits.items()} == {"train": 8, "val": 4, "test": 6}
    assert dataset.channels == 1


def test_train_and_test_without_val_hold_a_tenth_of_train_out(tmp_path: Path) -> None:
    fill(tmp_path / "train", {"cat": 20, "dog": 20})
    fill(tmp_path / "test", {"cat": 2, "dog": 2})
    dataset = open_dataset(f"folder:{tmp_path}")
    assert {name: len(split) for name, split in dataset.splits.items()} == {"train": 36, "val": 4, "test": 4}


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ({}, "at least 2 classes"),
        ({"cat": 5}, "at least 2 classes"),
        ({"train/cat": 3, "test/cat": 3, "test/dog": 3}, "train has no images of class dog"),
        ({"test/cat": 3, "test/dog": 3}, "has test but no train images: it can be evaluated on"),
        ({"cat": 1, "dog": 1}, "too small to split: its 2 images of 2 classes leave none for val"),
    ],
)
def test_a_folder_that_cannot_be_trained_on_is_refused(
    tmp_path: Path, classes: dict[str, int], message: str
) -> None:
    fill(tmp_path, classes)
    with pytest.raises(UserError, match=message):
        open_dataset(f"folder:{tmp_path}")


def test_a_folder_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere is not a folder"):
        open_dataset(f"folder:{tmp_path}/nowhere")


def test_a_path_that_does_not_exist_is_shown_as_it_was_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    expected = rf"^data/photos is not a folder \(looked for {tmp_path}/data/photos\)"
    with pytest.raises(UserError, match=expected):
        open_dataset("folder:data/photos")


# ---- layouts


@pytest.mark.parametrize(
    "names",
    [
        ("training_set", "dev", "test_set"),
        ("TRAIN", "Development", "Test"),
        ("train_images", "val_images", "evaluation"),
        ("trainset", "ValidationSet", "test-data"),
        ("training_set/training_set", "val/val", "test_set/test_set"),
        ("archive/train", "archive/val", "archive/test"),
    ],
)
def test_usual_names_of_splits_are_understood(tmp_path: Path, names: tuple[str, str, str]) -> None:
    for name, count in zip(names, (4, 2, 3), strict=True):
        fill(tmp_path / name, {"cat": count, "dog": count})
    dataset = open_dataset(f"folder:{tmp_path}")
    assert dataset.classes == ("cat", "dog")
    assert {name: len(split) for name, split in dataset.splits.items()} == {"train": 8, "val": 4, "test": 6}
    assert any("was taken as the train split" in note or "were taken" in note for note in dataset.notes)


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (["seg_train", "seg_test"], "holds seg_test, seg_train, which look like splits and not like classes"),
        (["train", "test"], "holds images directly in test, train: expected a folder for each class"),
        (["cat", "dog", "test"], "holds images directly in test, beside cat, dog: expected a folder"),
        (["train/cat", "train/dog", "training/cat"], "holds train and training, which are both the train"),
        (["test/cat", "test/dog", "cat", "dog"], "holds test, which is named like a split, beside cat, dog"),
        (["."], "holds 3 images and no folders of classes: expected PATH/class/image"),
        (["all/cat", "all/dog"], r"found 1, all: if the folders in it are classes, cat, dog, use folder:"),
    ],
)
def test_a_layout_that_is_unclear_is_refused_with_the_folders_that_were_met(
    tmp_path: Path, folders: list[str], message: str
) -> None:
    fill(tmp_path, dict.fromkeys(folders, 3))
    with pytest.raises(UserError, match=message):
        open_dataset(f"folder:{tmp_path}")


def test_images_beside_the_splits_and_without_a_class_are_counted(tmp_path: Path) -> None:
    fill(tmp_path, {"train/cat": 5, "train/dog": 5, "val/cat": 2, "val/dog": 2, "test": 4, "sketches": 2})
    (tmp_path / "train" / "cat" / "a.heic").write_bytes(b"x")
    dataset = open_dataset(f"folder:{tmp_path}")
    assert dataset.classes == ("cat", "dog")
    assert dataset.passed_over == (
        "5 files: 4 not in the folder of a class, 1 .heic (not readable here); 1 folder: sketches (beside "
        "the splits)"
    )


def test_empty_folders_of_splits_are_no_splits(tmp_path: Path) -> None:
    fill(tmp_path, {"cat": 5, "dog": 5})
    (tmp_path / "train").mkdir()
    dataset = open_dataset(f"folder:{tmp_path}")
    assert dataset.classes == ("cat", "dog")
    assert dataset.passed_over == "1 folder: train (without images)"


def test_splits_that_are_links_to_a_store_beside_them_are_read(tmp_path: Path) -> None:
    fill(tmp_path, {"store/cat": 5, "store/dog": 5, "test/cat": 2, "test/dog": 2})
    (tmp_path / "train").mkdir()
    for name in ("cat", "dog"):
        (tmp_path / "train" / name).symlink_to(f"../store/{name}")
    dataset = open_dataset(f"folder:{tmp_path}")
    assert {name: len(split) for name, split in dataset.splits.items()} == {"train": 8, "val": 2, "test": 4}
    assert dataset.passed_over == "1 folder: store (beside the splits)"


def test_names_of_one_class_in_two_unicode_forms_are_one_class(tmp_path: Path) -> None:
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    fill(tmp_path, {composed: 4, decomposed: 4, "tea": 8})
    dataset = open_dataset(f"folder:{tmp_path}")
    assert dataset.classes == (composed, "tea")
    assert sum(int((split.labels == 0).sum()) for split in dataset.splits.values()) == 8
    assert any("they are one class" in note for note in dataset.notes)


def test_one_class_of_each_split_in_another_unicode_form_is_one_class(tmp_path: Path) -> None:
    fill(tmp_path, {"train/caf\u00e9": 4, "train/tea": 4, "test/cafe\u0301": 2, "test/tea": 2})
    dataset = open_dataset(f"folder:{tmp_path}")
    assert dataset.classes == ("caf\u00e9", "tea")
    assert np.bincount(dataset.splits["test"].labels).tolist() == [2, 2]


def test_two_classes_that_are_equal_once_they_are_escaped_are_refused(tmp_path: Path) -> None:
    fill(tmp_path, {os.fsdecode(b"caf\xff"): 4, r"caf\xff": 4, "tea": 4})
    with pytest.raises(UserError, match=r"two folders of classes that are written caf\\xff, one") as error:
        open_dataset(f"folder:{tmp_path}")
    assert "\n" not in str(error.value)
    (tmp_path / r"caf\xff").rename(tmp_path / "coffee")
    assert open_dataset(f"folder:{tmp_path}").classes == (r"caf\xff", "coffee", "tea")
