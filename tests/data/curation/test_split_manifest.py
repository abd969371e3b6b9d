"""`data split`: a list that divides a set, and that a training follows to the letter."""

import csv
import json
import os
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from convatlas.cli.main import main
from convatlas.data import Dataset, open_dataset, open_source
from convatlas.data.curation.split_manifest import split_files
from convatlas.data.sources import manifest
from convatlas.data.sources.files import FileImages
from convatlas.data.sources.quarantine import Quarantine, QuarantinedFile
from convatlas.data.sources.source import RawDataset, prepare
from convatlas.errors import UserError

RNG = np.random.default_rng(0)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    root = tmp_path / "photos"
    for name, count in {"cat": 20, "large dog, barking": 40}.items():
        (root / name).mkdir(parents=True)
        for i in range(count):
            Image.fromarray(RNG.integers(0, 256, size=(4, 5, 3), dtype=np.uint8)).save(root / name / f"{i}.png")
    return root


def listed(root: Path, names: list[str]) -> RawDataset:
    labels, keys = np.arange(len(names)) % 2, [os.fsencode(name) for name in names]
    return RawDataset(name="list", classes=("a", "b"), channels=3, images=FileImages(root, names), labels=labels, content_hashes=keys)


def rows(file: Path) -> list[dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as text:
        return list(csv.DictReader(text))


def opened(file: Path) -> Dataset:
    return prepare(manifest.open_manifest(file))


def members(dataset: Dataset) -> dict[str, set[str]]:
    """Of every split the files, by their last two names."""
    return {part: {"/".join(Path(split.images.name(i)).parts[-2:]) for i in range(len(split))} for part, split in dataset.splits.items()}


def test_the_list_opened_as_a_manifest_gives_these_very_splits(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "split", f"folder:{photos}", "--val", "0.2", "--test", "0.3", "--seed", "5", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["out"] == str(photos / "split.csv")
    assert document["counts"] == {"train": 30, "val": 12, "test": 18}
    assert document["classes"]["large dog, barking"] == {"train": 20, "val": 8, "test": 12}
    followed = opened(photos / "split.csv")
    assert followed.classes == ("cat", "large dog, barking")
    by_split = defaultdict(set)
    for row in rows(photos / "split.csv"):
        by_split[row["split"]].add(row["file"])
    assert members(followed) == by_split
    assert {part: len(split) for part, split in followed.splits.items()} == document["counts"]


def test_without_a_seed_it_is_the_split_that_a_training_makes_by_itself(photos: Path) -> None:
    assert main(["data", "split", f"folder:{photos}"]) == 0
    assert members(opened(photos / "split.csv")) == members(open_dataset(f"folder:{photos}"))


def test_another_seed_divides_otherwise_and_the_same_seed_alike(photos: Path) -> None:
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        assert main(["data", "split", f"folder:{photos}", "--seed", seed, "--out", str(photos / f"{name}.csv")]) == 0
    a, b, c = ((photos / f"{name}.csv").read_bytes() for name in "abc")
    assert a == b
    assert a != c


def test_files_are_named_from_the_lists_own_folder_however_it_was_reached(
    photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(photos)
    assert main(["data", "split", "folder:.", "--out", "../above.csv"]) == 0
    assert "convatlas train MODEL --data manifest:../above.csv" in capsys.readouterr().out
    assert {row["file"].split("/")[0] for row in rows(photos.parent / "above.csv")} == {"photos"}
    assert sum(len(split) for split in opened(Path("../above.csv")).splits.values()) == 60


def test_groups_are_never_torn_apart_and_stay_in_the_list(photos: Path) -> None:
    names = sorted(str(file.relative_to(photos)) for file in photos.rglob("*.png"))
    lines = [("file", "label", "group")] + [(name, Path(name).parent.name, f"scene {i % 15}") for i, name in enumerate(names)]
    with (photos / "all.csv").open("w", newline="") as text:
        csv.writer(text).writerows(lines)
    division = split_files(manifest.open_manifest(photos / "all.csv"), 0.1, 0.1, seed=3)
    (photos / "split.csv").write_bytes(division.manifest(photos))
    parts = defaultdict(set)
    for row in rows(photos / "split.csv"):
        parts[row["group"]].add(row["split"])
    assert set(parts) == {f"scene {i}" for i in range(15)}
    assert all(len(found) == 1 for found in parts.values())
    assert len(set.union(*parts.values())) == 3
    assert not any("several splits" in note for note in opened(photos / "split.csv").notes)


def test_broken_files_on_the_quarantine_list_are_left_out(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    key = bytes(open_source(f"folder:{photos}").content_hashes[0]).hex()
    Quarantine(photos).add([QuarantinedFile(file="x", reason="broken", content=key)])
    assert main(["data", "split", f"folder:{photos}"]) == 0
    assert "1 broken files are left out" in capsys.readouterr().out
    assert len(rows(photos / "split.csv")) == 59


def test_splits_that_were_there_are_mixed_and_that_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for part, count in (("train", 20), ("test", 10)):
        for name in ("a", "b"):
            (tmp_path / part / name).mkdir(parents=True)
            for i in range(count):
                Image.fromarray(RNG.integers(0, 256, size=(4, 5), dtype=np.uint8)).save(tmp_path / part / name / f"{i}.png")
    assert main(["data", "split", f"folder:{tmp_path}"]) == 0
    assert "own splits, test and train, are mixed" in capsys.readouterr().out
    assert {row["split"] for row in rows(tmp_path / "split.csv") if row["file"].startswith("test/")} > {"train"}


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["folder:photos", "--val", "0"], 2, "--val should be more than 0 and less than 1, not 0.0"),
        (["folder:photos", "--test", "1.5"], 2, "--test should be more than 0 and less than 1, not 1.5"),
        (["folder:photos", "--val", "nan"], 2, "--val should be more than 0"),
        (["folder:photos", "--val", "0.5", "--test", "0.5"], 2, "leave nothing for train"),
        (["folder:photos", "--val", "0.001"], 1, "val would have no image of class cat, which has too few images"),
        (["folder:photos", "--out", "photos/cat/split.csv"], 2, "expected --out in photos or above it"),
        (["folder:photos", "--out", "elsewhere/split.csv"], 2, "expected --out in photos or above it"),
        (["folder:photos", "--out", "there.csv"], 2, "there.csv is there already"),
        (["folder:photos", "--seed", "x"], 2, "--seed is 'x': expected a whole number"),
        (["folder:photos", "--seed", "-1"], 2, "--seed should be 0 or more, not -1"),
        (["digits"], 2, "digits is not made of files that a list can name"),
        (["folder:nowhere"], 1, "nowhere is not a folder"),
    ],
)
def test_what_cannot_be_divided_is_one_line_and_writes_nothing(
    photos: Path, words: list[str], code: int, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(photos.parent)
    Path("there.csv").write_text("mine")
    Path("elsewhere").mkdir()
    before = sorted(photos.parent.rglob("*"))
    assert main(["data", "split", *words]) == code
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""
    assert sorted(photos.parent.rglob("*")) == before
    assert Path("there.csv").read_text() == "mine"


@settings(max_examples=25)
@given(
    st.lists(
        st.text(st.characters(exclude_characters="/\\:\0", exclude_categories=["Cs"]), min_size=1, max_size=12), min_size=12, unique=True
    )
)
def test_whatever_files_are_called_the_list_gives_them_back(tmp_path_factory: pytest.TempPathFactory, names: list[str]) -> None:
    root = tmp_path_factory.mktemp("photos")
    names = [name for name in names if name.strip() and name not in (".", "..") and len(os.fsencode(name)) < 200]
    for name in names:
        (root / name).write_bytes(name.encode())
    found = listed(root, names)
    division = split_files(found, 0.3, 0.3)
    (root / "the list.csv").write_bytes(division.manifest(root))
    again = manifest.open_manifest(root / "the list.csv")
    assert isinstance(again.images, FileImages)
    at = {name: i for i, name in enumerate(again.images.names)}
    assert {part: {names[i] for i in indices} for part, indices in division.splits.items()} == {
        part: {again.images.names[i] for i in indices} for part, indices in again.splits.items()
    }
    assert all(again.classes[again.labels[at[name]]] == found.classes[found.labels[i]] for i, name in enumerate(names))


@pytest.mark.parametrize("name", ["cat/back\\slash.png", "c:/1.png", os.fsdecode(b"\xff.png")])
def test_a_name_that_no_list_can_hold_is_said(name: str) -> None:
    names = [f"{i}.png" for i in range(11)] + [name]
    with pytest.raises(UserError, match="rename it") as error:
        split_files(listed(Path("photos"), names), 0.3, 0.3).manifest(Path("photos"))
    assert str(error.value).isprintable()
