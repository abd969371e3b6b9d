"""`data check` on folders that were damaged on purpose."""

import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from helpers import damage
from PIL import Image

from convatlas.data import open_dataset, open_source
from convatlas.data.curation.check import CheckReport, check, quarantine
from convatlas.data.sources.files import FileImages
from convatlas.data.sources.quarantine import NAME
from convatlas.data.sources.source import RawDataset

RNG = np.random.default_rng(0)


def fill(root: Path, classes: dict[str, int]) -> None:
    """Photographs of noise, no two of them alike."""
    for name, count in classes.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            blocks = RNG.integers(0, 256, size=(6, 8, 3), dtype=np.uint8)
            Image.fromarray(blocks.repeat(5, axis=0).repeat(5, axis=1)).save(root / name / f"{i}.png")


def put(folder: Path, files: dict[str, bytes]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)


def checked(root: Path, workers: int | None = None) -> CheckReport:
    return check(open_source(f"folder:{root}"), workers)


def names(files: Iterable[str]) -> set[str]:
    return {Path(file).name for file in files}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    root = tmp_path / "photos"
    fill(root, {"cat": 20, "dog": 30})
    return root


@pytest.mark.parametrize("workers", [1, 3])
def test_every_damaged_file_is_listed_as_bad_and_no_other_is(photos: Path, workers: int) -> None:
    put(photos / "cat", damage.kinds())
    put(photos / "dog", damage.odd())
    (photos / "cat" / "link.jpg").symlink_to("nowhere.jpg")
    report = checked(photos, workers)
    assert names(entry.file for entry in report.bad) == {*damage.kinds(), "link.jpg"}
    assert len(report.bad) == len(damage.kinds()) + 1
    assert all(entry.reason and "\n" not in entry.reason for entry in report.bad)
    assert report.n == 50 + len(damage.kinds()) + len(damage.odd()) + 1
    assert sum(sum(row.values()) for row in report.classes.values()) == 50 + len(damage.odd())


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("cmyk.jpg", "CMYK"),
        ("sixteen_bits.png", "more than 8 bits"),
        ("turned.jpg", "EXIF"),
        ("palette.png", "palette"),
        ("alpha.png", "transparency"),
        ("animated.gif", "several frames"),
        ("pages.tif", "several frames or pages"),
        ("in_fact_png.jpg", "PNG called .jpg"),
        ("in_fact_jpeg.png", "JPEG called .png"),
        ("grey.jpg", "grey in a set of colour"),
        ("progressive.jpg", "progressive"),
        ("bytes_after.jpg", "bytes after the end"),
        ("bytes_before_the_end.jpg", "stray bytes"),
        ("one_colour.png", "one colour"),
    ],
)
def test_an_odd_file_is_a_note(photos: Path, file: str, words: str) -> None:
    put(photos / "dog", {file: damage.odd()[file]})
    report = checked(photos)
    assert report.bad == []
    assert any(words in note.note and Path(note.file).name == file for note in report.notes)
    assert names(note.file for note in report.notes) == {file}


def test_every_odd_file_of_the_collection_has_its_note(photos: Path) -> None:
    put(photos / "dog", damage.odd())
    assert names(note.file for note in checked(photos).notes) == set(damage.odd())


def test_what_the_folder_holds_beside_images_is_named_with_the_reason(photos: Path) -> None:
    put(photos, {"top.jpg": b"", ".hidden.jpg": b"", NAME: b""})
    put(photos / "cat", {"notes.txt": b"", ".DS_Store": b""})
    put(photos / "cat" / "more", {"notes.md": b""})
    os.mkfifo(photos / "cat" / "pipe.jpg")
    (photos / "empty").mkdir()
    (photos / ".git").mkdir()
    assert {
        (str(Path(note.file).relative_to(photos)), note.note.removeprefix("passed over: ").split()[0]) for note in checked(photos).notes
    } == {
        ("top.jpg", "not"),
        (".hidden.jpg", "hidden"),
        ("cat/notes.txt", "its"),
        ("cat/.DS_Store", "hidden"),
        ("cat/more", "a"),
        ("cat/pipe.jpg", "not"),
        ("empty", "a"),
        (".git", "hidden"),
    }


def test_the_bad_ones_are_put_on_the_quarantine_list_once_and_trainings_leave_them_out(photos: Path) -> None:
    put(photos / "cat", damage.kinds())
    for _ in range(2):
        report = checked(photos)
        assert quarantine(open_source(f"folder:{photos}"), report.bad) == photos / NAME
    lines = [json.loads(line) for line in (photos / NAME).read_text().splitlines()]
    assert names(line["file"] for line in lines) == set(damage.kinds())
    assert len(lines) == len(damage.kinds())
    assert len(report.bad) == len(damage.kinds())  # read again, though they are on the list
    assert sum(len(split) for split in open_dataset(f"folder:{photos}").splits.values()) == 50


def test_a_mended_file_is_no_longer_bad(photos: Path) -> None:
    put(photos / "cat", {"x.jpg": damage.kinds()["truncated.jpg"]})
    quarantine(open_source(f"folder:{photos}"), checked(photos).bad)
    put(photos / "cat", {"x.jpg": damage.encode("JPEG")})
    assert checked(photos).bad == []
    assert checked(photos).notes == []


def test_a_file_on_the_list_that_can_be_read_is_a_note_and_left_out(photos: Path) -> None:
    put(photos / "cat", {"x.jpg": damage.kinds()["truncated.jpg"]})
    (entry,) = checked(photos).bad
    put(photos / "cat", {"x.jpg": damage.encode("JPEG")})
    found = open_source(f"folder:{photos}")
    content = next(bytes(key).hex() for i, key in enumerate(found.content_hashes) if found.images.name(i).endswith("cat/x.jpg"))
    quarantine(found, [entry.replace(content=content)])
    report = checked(photos)
    assert [Path(note.file).name for note in report.notes if "although it can be read" in note.note] == ["x.jpg"]
    assert sum(report.classes["cat"].values()) == 20


def test_images_that_show_the_same_are_named_with_their_splits_and_classes(tmp_path: Path) -> None:
    for part in ("train", "val", "test"):
        fill(tmp_path / part, {"cat": 4, "dog": 4})
    Image.open(tmp_path / "train/cat/0.png").save(tmp_path / "test/cat/leak.jpg", quality=80)
    shutil.copy(tmp_path / "train/dog/1.png", tmp_path / "train/cat/copy.png")
    report = checked(tmp_path)
    pairs = {frozenset(names(pair.files)): pair for pair in report.duplicates}
    assert set(pairs) == {frozenset({"0.png", "leak.jpg"}), frozenset({"1.png", "copy.png"})}
    leak, copy = pairs[frozenset({"0.png", "leak.jpg"})], pairs[frozenset({"1.png", "copy.png"})]
    assert (set(leak.splits), leak.classes, leak.identical) == ({"train", "test"}, ("cat", "cat"), False)
    assert 0 <= leak.distance < 0.06
    assert (copy.splits, set(copy.classes), copy.identical, copy.distance) == (("train", "train"), {"cat", "dog"}, True, 0)


def test_splits_are_those_of_a_training(photos: Path) -> None:
    dataset = open_dataset(f"folder:{photos}")
    report = checked(photos)
    assert report.classes == {
        name: {part: int((split.labels == label).sum()) for part, split in dataset.splits.items()}
        for label, name in enumerate(dataset.classes)
    }
    assert report.remarks == dataset.notes
    assert report.refusal is None


@pytest.mark.parametrize(
    ("classes", "refusal"),
    [
        ({}, "at least 2 classes"),
        ({"cat": 5}, "at least 2 classes"),
        ({"train/cat": 3, "train/dog": 3, "test/cat": 3}, "test has no images of class dog"),
        ({"cat": 2, "dog": 2}, "too small to split"),
    ],
)
def test_a_set_that_no_training_can_use_is_checked_all_the_same(tmp_path: Path, classes: dict[str, int], refusal: str) -> None:
    fill(tmp_path, classes)
    put(tmp_path / next(iter(classes), "cat"), {"bad.jpg": b"no image"})
    report = checked(tmp_path)
    assert report.refusal is not None
    assert refusal in report.refusal
    assert [Path(entry.file).name for entry in report.bad] == ["bad.jpg"]
    assert sum(sum(row.values()) for row in report.classes.values()) == sum(classes.values())


def test_sizes_are_the_smallest_the_median_and_the_largest(photos: Path) -> None:
    for name, size in (("small.png", (3, 5)), ("large.png", (90, 70))):
        Image.new("RGB", size).save(photos / "cat" / name)
    assert {what: sized[:2] for what, sized in checked(photos).sizes.items()} == {
        "smallest": (3, 5),
        "median": (40, 30),
        "largest": (90, 70),
    }


def test_names_from_the_disk_cannot_steer_a_terminal(tmp_path: Path) -> None:
    named = {"a\x1b[31m.jpg": b"", os.fsdecode(b"\xff.jpg"): b"", "b\x1b[31m.jpg": damage.odd()["turned.jpg"]}
    put(tmp_path, named)
    files = FileImages(tmp_path, list(named))
    found = RawDataset(
        name="list",
        classes=("x",),
        channels=3,
        images=files,
        labels=np.zeros(3, np.int64),
        content_hashes=[*map(str.encode, "abc")],
        root=tmp_path,
    )
    report = check(found)
    assert all(text.isprintable() for text in [*(e.file for e in report.bad), *(e.reason for e in report.bad), *sum(report.notes, ())])
    assert quarantine(found, report.bad) == tmp_path / NAME
    assert (len(report.bad), len(report.notes)) == (2, 1)


def test_a_published_set_in_memory_is_checked_too_and_has_no_list() -> None:
    found = open_source("digits")
    report = check(found)
    assert (report.n, report.bad, report.notes) == (1797, [], [])
    assert quarantine(found, report.bad) is None
    assert list(next(iter(report.classes.values()))) == ["train", "val", "test"]
