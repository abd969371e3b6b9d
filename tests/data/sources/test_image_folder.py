"""Folders of images, with and without splits."""

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
        ({"train/cat": 3, "train/dog": 3, "test/cat": 3}, "test has no images of class dog"),
        ({"test/cat": 3, "test/dog": 3}, "no train images"),
        ({"cat": 2, "dog": 2}, "too small to split"),
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
