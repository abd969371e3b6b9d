"""From the content of a source to a data set: equal content, splits that lack classes, evaluation only."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from convatlas.data import open_dataset, open_evaluation_dataset, open_source
from convatlas.data.sources.prepare import prepare
from convatlas.errors import UserError

RNG = np.random.default_rng(0)


def fill(root: Path, counts: dict[str, int]) -> Path:
    for name, count in counts.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            pixels = RNG.integers(0, 256, size=(4, 5, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number}.png")
    return root


def test_copies_of_a_file_are_in_one_split(tmp_path: Path) -> None:
    fill(tmp_path, {"cat": 30, "dog": 30})
    for number in range(12):
        shutil.copy(tmp_path / "cat" / f"{number}.png", tmp_path / "cat" / f"copy {number}.png")
    dataset = open_dataset(f"folder:{tmp_path}")
    contents = [set(split.content_hashes) for split in dataset.splits.values()]
    assert sum(map(len, contents)) == len(set.union(*contents)) == 60
    assert "12 images have the same content as another: copies are in one split" in dataset.notes
    assert dataset.warnings == ()


def test_equal_files_of_two_classes_stop_a_training_or_are_left_out(tmp_path: Path) -> None:
    fill(tmp_path, {"cat": 10, "dog": 10})
    shutil.copy(tmp_path / "cat" / "3.png", tmp_path / "dog" / "also.png")
    source = open_source(f"folder:{tmp_path}")
    with pytest.raises(UserError) as error:
        prepare(source, conflicts="stop")
    assert f"{tmp_path}/cat/3.png (cat) = {tmp_path}/dog/also.png (dog)" in str(error.value)
    assert "--set data.conflicts=drop" in str(error.value)
    dataset = prepare(source, conflicts="drop")
    assert sum(map(len, dataset.splits.values())) == 19
    assert "2 files with the same content under different classes are left out" in dataset.notes[0]


def test_equal_files_that_are_no_images_are_no_conflict(tmp_path: Path) -> None:
    fill(tmp_path, {"cat": 10, "dog": 10})
    for name in ("cat", "dog"):
        (tmp_path / name / "empty.jpg").write_bytes(b"")
    assert sum(map(len, prepare(open_source(f"folder:{tmp_path}"), conflicts="stop").splits.values())) == 22


def test_images_of_train_in_the_test_that_was_given_are_counted(tmp_path: Path) -> None:
    fill(tmp_path, {"train/cat": 20, "train/dog": 20, "test/cat": 5, "test/dog": 5})
    for number in range(5):
        shutil.copy(tmp_path / f"train/cat/{number}.png", tmp_path / f"test/cat/{number}.png")
    dataset = open_dataset(f"folder:{tmp_path}")
    hidden = set(dataset.splits["val"].content_hashes) & set(dataset.splits["test"].content_hashes)
    expected = f"{5 - len(hidden)} of 10 test images have the same content as images of train"
    assert expected in dataset.warnings[0]


def test_a_split_may_lack_classes(tmp_path: Path) -> None:
    fill(tmp_path, {"train/cat": 5, "train/dog": 5, "train/ant": 5, "val/cat": 2, "test/dog": 2})
    dataset = open_dataset(f"folder:{tmp_path}")
    assert {name: len(split) for name, split in dataset.splits.items()} == {"train": 15, "val": 2, "test": 2}
    assert "val has no images of ant, dog" in dataset.notes
    assert "test has no images of ant, cat" in dataset.notes


@pytest.mark.parametrize(("count", "missing"), [(1, ["val", "test"]), (2, ["val"]), (3, []), (5, [])])
def test_a_tiny_class_is_spread_as_far_as_it_goes(tmp_path: Path, count: int, missing: list[str]) -> None:
    fill(tmp_path, {"cat": 30, "rare": count})
    dataset = open_dataset(f"folder:{tmp_path}")
    lacking = [name for name, split in dataset.splits.items() if 1 not in split.labels]
    assert lacking == missing
    assert [note for note in dataset.notes if "has no images of rare" in note] == [
        f"{name} has no images of rare" for name in ("val", "test") if name in missing
    ]


@pytest.mark.parametrize(
    ("counts", "splits"),
    [
        ({"test/cat": 3, "test/dog": 2}, {"test": 5, "all": 5}),
        ({"cat": 3, "dog": 2}, {"all": 5}),
        ({"cat": 1}, {"all": 1}),
        ({"train/cat": 2, "val/dog": 1}, {"train": 2, "val": 1, "all": 3}),
    ],
)
def test_any_labelled_images_can_be_evaluated_on(
    tmp_path: Path, counts: dict[str, int], splits: dict[str, int]
) -> None:
    fill(tmp_path, counts)
    dataset = open_evaluation_dataset(f"folder:{tmp_path}")
    assert {name: len(split) for name, split in dataset.splits.items()} == splits
    with pytest.raises(UserError):
        open_dataset(f"folder:{tmp_path}/nowhere")


def test_a_set_without_images_says_what_was_passed_over(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "1.heic").write_bytes(b"x")
    for open_ in (open_dataset, open_evaluation_dataset):
        with pytest.raises(UserError, match=r"passed over: 1 file: 1 .heic \(not readable here\)"):
            open_(f"folder:{tmp_path}")
