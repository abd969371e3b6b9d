"""Lists of image names: which images they select, and which lists are refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.ensemble_members import NUM_TEST_IMAGES, forbid_evaluation, make_classifier, make_photos
from PIL import Image

import convatlas as ca
from convatlas.data.transforms.preprocessing import fixed_size_preprocessing
from convatlas.errors import UsageError, UserError
from convatlas.evaluation.predictions import read_predictions


def write_list(file: Path, *lines: str, end: str = "\n") -> Path:
    file.write_text(end.join(lines) + end, "utf-8", newline="")
    return file


def results(document: dict[str, Any]) -> dict[str, Any]:
    keys = ("top1", "top5", "loss", "n", "reliability", "per_class", "confusion")
    return {key: document[key] for key in keys}


def test_a_list_selects_its_images_in_any_order_and_form(
    photos: str, runs: list[Path], tmp_path: Path
) -> None:
    root = Path(photos.removeprefix("folder:"))
    names = ["cat2.png", "dog/dog0.png", "test/hen/hen3.png", f"{root}/test/owl/owl1.png"]
    document = ca.evaluate(runs[0], subset=write_list(tmp_path / "a.txt", *names))
    lines = ["\ufeff" + names[2], "", *names[:2], f"  {names[3]}"]
    reordered = ca.evaluate(ca.load(runs[0]), subset=write_list(tmp_path / "b.txt", *lines, end="\r\n"))
    assert results(reordered) == results(document)
    assert document["n"] == 4
    assert [row["n"] for row in document["per_class"]] == [1, 1, 0, 1, 1, 0]


def test_predictions_on_listed_images_are_those_on_the_split(runs: list[Path], tmp_path: Path) -> None:
    names = ["cat2.png", "dog0.png", "hen3.png", "owl1.png"]
    ca.evaluate(runs[0], subset=write_list(tmp_path / "list.txt", *names))
    ca.evaluate(runs[0])
    files = (runs[0] / "predictions").iterdir()
    by_size = {len(predictions.labels): predictions for predictions in map(read_predictions, files)}
    listed = by_size[4]
    assert listed.indices.tolist() == [2, 4, 15, 17]
    assert np.array_equal(listed.logits, by_size[NUM_TEST_IMAGES].logits[listed.indices])


def test_a_list_of_cached_images_runs_no_network(
    runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_list(tmp_path / "a.txt", "cat2.png", "owl1.png")
    computed = ca.evaluate(ca.load(runs[0]), crops="10", subset=file)
    ca.evaluate(runs[0], crops="10")
    forbid_evaluation(monkeypatch)
    cached = ca.evaluate(runs[0], crops="10", subset=file)
    assert results(cached) == results(computed)
    assert cached["n"] == 2


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            ["cat0.png", "cow0.png", "emu.png"],
            r"line 2: 'cow0.png' is no image of folder:.*, test: expected names such as .*cat0.png",
        ),
        (["at0.png"], r"line 1: 'at0.png' is no image"),
        (["train/cat/cat0.png"], r"line 1: 'train/cat/cat0.png' is no image"),
        (["cat0.png", "", "cat/cat0.png"], r"line 3: 'cat/cat0.png' is the image of line 1 again"),
        (["", "  "], r"names no image"),
        (["a" * 5000], r"line 1: 'a{200}' is no image"),
        (["\x1b]0;x\x07.png"], r"line 1: '\\x1b\]0;x\\x07.png' is no image"),
    ],
)
def test_a_line_that_is_no_image_is_named(
    lines: list[str], message: str, runs: list[Path], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        ca.evaluate(runs[0], subset=write_list(tmp_path / "list.txt", *lines))


def test_a_name_of_two_images_needs_its_folder(tmp_path: Path) -> None:
    classifier = make_classifier(0, data=make_photos(tmp_path / "photos"))
    for name, color in (("cat", "red"), ("dog", "blue")):
        Image.new("RGB", (40, 40), color).save(tmp_path / "photos" / "test" / name / "same.png")
    message = r"line 1: 'same.png' may be .*cat/same.png or .*dog/same.png: name the folder too"
    with pytest.raises(UsageError, match=message):
        ca.evaluate(classifier, subset=write_list(tmp_path / "list.txt", "same.png"))
    assert ca.evaluate(classifier, subset=write_list(tmp_path / "list.txt", "dog/same.png"))["n"] == 1


def test_a_file_that_is_no_list_is_named(runs: list[Path], tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_bytes(b"\xff\xfe\x00cat")
    with pytest.raises(UserError, match="is no text in UTF-8"):
        ca.evaluate(runs[0], subset=tmp_path / "list.txt")
    with pytest.raises(UserError, match=r"cannot read .*nothing.txt \(No such file or directory\)"):
        ca.evaluate(runs[0], subset=tmp_path / "nothing.txt")
    with pytest.raises(UserError, match=r"cannot read .* \(it is a folder\)"):
        ca.evaluate(runs[0], subset=tmp_path)


def test_images_without_files_are_listed_by_their_numbers(tmp_path: Path) -> None:
    preprocessing = fixed_size_preprocessing(1, (8, 8), (32, 32))
    digits = tuple(map(str, range(10)))
    classifier = make_classifier(0, "lenet5", classes=digits, preprocessing=preprocessing)
    document = ca.evaluate(classifier, "digits", subset=write_list(tmp_path / "list.txt", "#7", "#100", "#3"))
    assert document["n"] == 3
