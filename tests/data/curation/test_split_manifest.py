"""`data split`: a manifest that splits a data set, and that a training follows exactly."""

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
from convatlas.data.curation.split_files import split_files
from convatlas.data.curation.split_manifest import manifest_csv
from convatlas.data.sources import manifest
from convatlas.data.sources.files import FileImages
from convatlas.data.sources.prepare import prepare
from convatlas.data.sources.quarantine import Quarantine, QuarantinedFile
from convatlas.data.sources.source import RawDataset

RNG = np.random.default_rng(0)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    root = tmp_path / "photos"
    for name, count in {"cat": 20, "large dog, barking": 40}.items():
        (root / name).mkdir(parents=True)
        for i in range(count):
            Image.fromarray(RNG.integers(0, 256, size=(4, 5, 3), dtype=np.uint8)).save(
                root / name / f"{i}.png"
            )
    return root


def source_of_files(root: Path, names: list[str]) -> RawDataset:
    return RawDataset(
        name="list",
        classes=("a", "b"),
        channels=3,
        images=FileImages(root, names),
        labels=np.arange(len(names)) % 2,
        content_hashes=[os.fsencode(name) for name in names],
    )


def read_rows(file: Path) -> list[dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as text:
        return list(csv.DictReader(text))


def open_split(file: Path) -> Dataset:
    return prepare(manifest.open_manifest(file))


def files_by_split(dataset: Dataset) -> dict[str, set[str]]:
    """The files of each split, by class folder and name."""
    return {
        name: {"/".join(Path(split.images.name(i)).parts[-2:]) for i in range(len(split))}
        for name, split in dataset.splits.items()
    }


def test_opening_the_manifest_gives_the_same_splits(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--val", "0.2", "--test", "0.3", "--seed", "5", "--json"]
    assert main(["data", "split", f"folder:{photos}", *options]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["out"] == str(photos / "split.csv")
    assert document["counts"] == {"train": 30, "val": 12, "test": 18}
    assert document["classes"]["large dog, barking"] == {"train": 20, "val": 8, "test": 12}
    dataset = open_split(photos / "split.csv")
    assert dataset.classes == ("cat", "large dog, barking")
    files = defaultdict(set)
    for row in read_rows(photos / "split.csv"):
        files[row["split"]].add(row["file"])
    assert files_by_split(dataset) == files
    assert {name: len(split) for name, split in dataset.splits.items()} == document["counts"]


def test_without_a_seed_the_split_is_that_of_a_training(photos: Path) -> None:
    assert main(["data", "split", f"folder:{photos}"]) == 0
    dataset = open_dataset(f"folder:{photos}")
    assert files_by_split(open_split(photos / "split.csv")) == files_by_split(dataset)


def test_a_seed_decides_the_split(photos: Path) -> None:
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        options = ["--seed", seed, "--out", str(photos / f"{name}.csv")]
        assert main(["data", "split", f"folder:{photos}", *options]) == 0
    a, b, c = ((photos / f"{name}.csv").read_bytes() for name in "abc")
    assert a == b
    assert a != c


def test_files_are_named_relative_to_the_manifests_folder(
    photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(photos)
    assert main(["data", "split", "folder:.", "--out", "../above.csv"]) == 0
    assert "convatlas train MODEL --data manifest:../above.csv" in capsys.readouterr().out
    files = [row["file"] for row in read_rows(photos.parent / "above.csv")]
    assert {file.split("/")[0] for file in files} == {"photos"}
    assert sum(len(split) for split in open_split(Path("../above.csv")).splits.values()) == 60


@pytest.mark.parametrize("out", ["elsewhere/list.csv", "photos/cat/list.csv"])
def test_a_manifest_may_lie_anywhere(photos: Path, monkeypatch: pytest.MonkeyPatch, out: str) -> None:
    monkeypatch.chdir(photos.parent)
    Path("elsewhere").mkdir()
    assert main(["data", "split", "folder:photos", "--out", out]) == 0
    splits = files_by_split(open_split(Path(out)))
    assert splits == files_by_split(open_dataset("folder:photos"))


def test_a_small_fraction_gives_an_image_of_each_class(photos: Path) -> None:
    split = split_files(open_source(f"folder:{photos}"), 0.001, 0.001)
    assert {name: len(indices) for name, indices in split.splits.items()} == {
        "train": 56,
        "val": 2,
        "test": 2,
    }


def test_images_that_look_alike_stay_in_one_split_on_request(photos: Path) -> None:
    pixels = RNG.integers(0, 256, size=(6, 8, 3), dtype=np.uint8).repeat(5, axis=0).repeat(5, axis=1)
    for number in range(12):
        Image.fromarray(pixels).save(photos / "cat" / f"alike{number}.jpg", quality=99 - number)
    source = open_source(f"folder:{photos}")
    alike = {i for i in range(len(source.labels)) if Path(source.images.name(i)).name.startswith("alike")}
    apart = split_files(source, 0.3, 0.3)
    assert sum(bool(alike & set(indices.tolist())) for indices in apart.splits.values()) > 1
    together = split_files(source, 0.3, 0.3, group_near_duplicates=True)
    assert sum(bool(alike & set(indices.tolist())) for indices in together.splits.values()) == 1
    assert "12 images look like others and stay in one split with them" in together.notes


def test_groups_stay_together_and_are_named_in_the_manifest(photos: Path) -> None:
    names = sorted(str(file.relative_to(photos)) for file in photos.rglob("*.png"))
    rows = [("file", "label", "group")]
    rows += [(name, Path(name).parent.name, f"scene {i % 15}") for i, name in enumerate(names)]
    with (photos / "all.csv").open("w", newline="") as text:
        csv.writer(text).writerows(rows)
    split = split_files(manifest.open_manifest(photos / "all.csv"), 0.1, 0.1, seed=3)
    (photos / "split.csv").write_bytes(manifest_csv(split, photos))
    splits_by_group = defaultdict(set)
    for row in read_rows(photos / "split.csv"):
        splits_by_group[row["group"]].add(row["split"])
    assert set(splits_by_group) == {f"scene {i}" for i in range(15)}
    assert all(len(splits) == 1 for splits in splits_by_group.values())
    assert len(set.union(*splits_by_group.values())) == 3
    assert not any("several splits" in note for note in open_split(photos / "split.csv").notes)


def test_files_on_the_quarantine_list_are_left_out(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content_hash = bytes(open_source(f"folder:{photos}").content_hashes[0]).hex()
    Quarantine(photos).add([QuarantinedFile(file="x", reason="broken", content=content_hash)])
    assert main(["data", "split", f"folder:{photos}"]) == 0
    assert "1 broken files are left out" in capsys.readouterr().out
    assert len(read_rows(photos / "split.csv")) == 59


def test_existing_splits_are_merged_which_is_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for split, count in (("train", 20), ("test", 10)):
        for name in ("a", "b"):
            folder = tmp_path / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = RNG.integers(0, 256, size=(4, 5), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")
    assert main(["data", "split", f"folder:{tmp_path}"]) == 0
    assert "own splits, test and train, are merged and split again" in capsys.readouterr().out
    rows = read_rows(tmp_path / "split.csv")
    assert {row["split"] for row in rows if row["file"].startswith("test/")} > {"train"}


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["folder:photos", "--val", "0"], 2, "--val should be more than 0 and less than 1, not 0.0"),
        (["folder:photos", "--test", "1.5"], 2, "--test should be more than 0 and less than 1, not 1.5"),
        (["folder:photos", "--val", "nan"], 2, "--val should be more than 0"),
        (["folder:photos", "--val", "0.5", "--test", "0.5"], 2, "leave nothing for train"),
        (["folder:photos", "--out", "there.csv"], 2, "there.csv already exists"),
        (["folder:photos", "--seed", "x"], 2, "--seed is 'x': expected a whole number"),
        (["folder:photos", "--seed", "-1"], 2, "--seed should be 0 or more, not -1"),
        (["digits"], 2, "digits does not consist of files that a manifest can name"),
        (["folder:nowhere"], 1, "nowhere is not a folder"),
    ],
)
def test_an_impossible_split_is_one_error_line_and_writes_nothing(
    photos: Path,
    arguments: list[str],
    code: int,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(photos.parent)
    Path("there.csv").write_text("mine")
    Path("elsewhere").mkdir()
    before = sorted(photos.parent.rglob("*"))
    assert main(["data", "split", *arguments]) == code
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""
    assert sorted(photos.parent.rglob("*")) == before
    assert Path("there.csv").read_text() == "mine"


FILE_NAMES = st.text(
    st.characters(exclude_characters="/\\:\0", exclude_categories=["Cs"]), min_size=1, max_size=12
)


@settings(max_examples=25)
@given(st.lists(FILE_NAMES, min_size=12, unique=True))
def test_a_manifest_keeps_any_file_name(tmp_path_factory: pytest.TempPathFactory, names: list[str]) -> None:
    root = tmp_path_factory.mktemp("photos")
    names = [
        name for name in names if name.strip() and name not in (".", "..") and len(os.fsencode(name)) < 200
    ]
    for name in names:
        (root / name).write_bytes(name.encode())
    source = source_of_files(root, names)
    split = split_files(source, 0.3, 0.3)
    (root / "the list.csv").write_bytes(manifest_csv(split, root))
    reopened = manifest.open_manifest(root / "the list.csv")
    assert isinstance(reopened.images, FileImages)
    reopened_names = reopened.images.names
    assert {name: {names[i] for i in indices} for name, indices in split.splits.items()} == {
        name: {reopened_names[i] for i in indices} for name, indices in reopened.splits.items()
    }
    labels = {name: source.classes[source.labels[i]] for i, name in enumerate(names)}
    assert labels == {name: reopened.classes[reopened.labels[i]] for i, name in enumerate(reopened_names)}


@settings(max_examples=100)
@given(st.binary(min_size=1, max_size=20).filter(lambda name: not set(b"\0/") & set(name)))
def test_a_manifest_names_a_file_of_any_bytes(name: bytes) -> None:
    names = [f"{i}.png" for i in range(11)] + [f"cat/{os.fsdecode(name)}x", f"{os.fsdecode(name)}:/x"]
    split = split_files(source_of_files(Path("photos"), names), 0.3, 0.3)
    content = manifest_csv(split, Path("photos"))
    rows = [*csv.reader(content.decode().splitlines())][1:]
    assert {manifest._validate_file_name(row[0], "line", "/photos") for row in rows} == {
        os.path.normpath(name) for name in names
    }
