"""Names of splits, as folders and columns bear them."""

import pytest

from convatlas.data.sources.split_names import looks_like_split, split_name


@pytest.mark.parametrize(
    ("name", "split"),
    [
        *[("train", "train"), ("Training_Set", "train"), ("trainset", "train"), ("TrainData", "train")],
        *[
            ("train_images", "train"),
            ("val_images", "val"),
            ("dev", "val"),
            ("VALID", "val"),
            ("test1", "test"),
        ],
        *[("evaluation", "test"), ("test-set", "test")],
        *[
            ("trainer", None),
            ("valley", None),
            ("cat", None),
            ("latest", None),
            ("train station", None),
            ("", None),
        ],
    ],
)
def test_a_name_is_that_of_a_split_if_it_says_nothing_else(name: str, split: str | None) -> None:
    assert split_name(name) == split


@pytest.mark.parametrize(("name", "result"), [("seg_train", True), ("test_old", True), ("cat", False)])
def test_a_name_looks_like_a_split_if_one_of_its_words_is_one(name: str, result: bool) -> None:
    assert looks_like_split(name) is result
