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


def write_photos(root: Path, classes: dict[str, int]) -> None:
    """Write photographs of noise, no two of them alike."""
    for name, count in classes.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            blocks = RNG.integers(0, 256, size=(6, 8, 3), dtype=np.uint8)
            Image.fromarray(blocks.repeat(5, axis=0).repeat(5, axis=1)).save(root / name / f"{i}.png")


def write_files(folder: Path, files: dict[str, bytes]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)


def check_folder(root: Path, workers: int | None = None) -> CheckReport:
    return check(open_source(f"folder:{root}"), workers)


def file_names(files: Iterable[str]) -> set[str]:
    return {Path(file).name for file in files}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    root = tmp_path / "photos"
    write_photos(root, {"cat": 20, "dog": 30})
    return root


@pytest.mark.parametrize("workers", [1, 3])
def test_every_damaged_file_and_no_other_is_listed_as_bad(photos: Path, workers: int) -> None:
    unreadable = damage.unreadable_files()
    unusual = damage.unusual_files()
    write_files(photos / "cat", unreadable)
    write_files(photos / "dog", unusual)
    (photos / "cat" / "link.jpg").symlink_to("nowhere.jpg")
    report = check_folder(photos, workers)
    assert file_names(entry.file for entry in report.bad) == {*unreadable, "link.jpg"}
    assert len(report.bad) == len(unreadable) + 1
    assert all(entry.reason and "\n" not in entry.reason for entry in report.bad)
    assert report.n == 50 + len(unreadable) + len(unusual) + 1
    assert sum(sum(counts.values()) for counts in report.classes.values()) == 50 + len(unusual)


@pytest.mark.parametrize(
    ("file", "message"),
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
def test_an_unusual_file_gets_a_note(photos: Path, file: str, message: str) -> None:
    write_files(photos / "dog", {file: damage.unusual_files()[file]})
    report = check_folder(photos)
    assert report.bad == []
    assert any(message in note.note and Path(note.file).name == file for note in report.notes)
    assert file_names(note.file for note in report.notes) == {file}


def test_each_of_many_unusual_files_gets_its_note(photos: Path) -> None:
    write_files(photos / "dog", damage.unusual_files())
    report = check_folder(photos)
    assert file_names(note.file for note in report.notes) == set(damage.unusual_files())


def test_files_that_are_not_used_as_images_are_listed_with_the_reason(photos: Path) -> None:
    write_files(photos, {"top.jpg": b"", ".hidden.jpg": b"", NAME: b""})
    write_files(photos / "cat", {"notes.txt": b"", ".DS_Store": b""})
    write_files(photos / "cat" / "more", {"notes.md": b""})
    os.mkfifo(photos / "cat" / "pipe.jpg")
    (photos / "empty").mkdir()
    (photos / ".git").mkdir()
    reasons = {
        str(Path(note.file).relative_to(photos)): note.note.removeprefix("passed over: ")
        for note in check_folder(photos).notes
    }
    assert reasons == {
        "top.jpg": "not in the folder of a class",
        ".hidden.jpg": "hidden",
        "cat/notes.txt": ".txt",
        "cat/.DS_Store": "hidden",
        "cat/more": "without images",
        "cat/more/notes.md": ".md",
        "cat/pipe.jpg": "not a file",
        "empty": "without images",
        ".git": "hidden",
    }


def test_bad_files_are_quarantined_once_and_left_out_of_trainings(photos: Path) -> None:
    unreadable = damage.unreadable_files()
    write_files(photos / "cat", unreadable)
    for _ in range(2):
        report = check_folder(photos)
        assert quarantine(open_source(f"folder:{photos}"), report.bad) == photos / NAME
    entries = [json.loads(line) for line in (photos / NAME).read_text().splitlines()]
    assert file_names(entry["file"] for entry in entries) == set(unreadable)
    assert len(entries) == len(unreadable)
    assert len(report.bad) == len(unreadable)  # read again, although they are on the list
    assert sum(len(split) for split in open_dataset(f"folder:{photos}").splits.values()) == 50


def test_a_fixed_file_is_no_longer_bad(photos: Path) -> None:
    write_files(photos / "cat", {"x.jpg": damage.unreadable_files()["truncated.jpg"]})
    quarantine(open_source(f"folder:{photos}"), check_folder(photos).bad)
    write_files(photos / "cat", {"x.jpg": damage.encode("JPEG")})
    assert check_folder(photos).bad == []
    assert check_folder(photos).notes == []


def test_a_readable_file_on_the_quarantine_list_gets_a_note_and_is_left_out(photos: Path) -> None:
    write_files(photos / "cat", {"x.jpg": damage.unreadable_files()["truncated.jpg"]})
    (entry,) = check_folder(photos).bad
    write_files(photos / "cat", {"x.jpg": damage.encode("JPEG")})
    source = open_source(f"folder:{photos}")
    content_hash = next(
        bytes(content_hash).hex()
        for i, content_hash in enumerate(source.content_hashes)
        if source.images.name(i).endswith("cat/x.jpg")
    )
    quarantine(source, [entry.replace(content=content_hash)])
    report = check_folder(photos)
    notes = [note for note in report.notes if "although it can be read" in note.note]
    assert [Path(note.file).name for note in notes] == ["x.jpg"]
    assert sum(report.classes["cat"].values()) == 20


def test_duplicates_are_reported_with_their_splits_and_classes(tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        write_photos(tmp_path / split, {"cat": 4, "dog": 4})
    Image.open(tmp_path / "train/cat/0.png").save(tmp_path / "test/cat/leak.jpg", quality=80)
    shutil.copy(tmp_path / "train/dog/1.png", tmp_path / "train/cat/copy.png")
    report = check_folder(tmp_path)
    duplicates = {frozenset(file_names(pair.files)): pair for pair in report.duplicates}
    assert set(duplicates) == {frozenset({"0.png", "leak.jpg"}), frozenset({"1.png", "copy.png"})}
    leak = duplicates[frozenset({"0.png", "leak.jpg"})]
    assert (set(leak.splits), leak.classes, leak.identical) == ({"train", "test"}, ("cat", "cat"), False)
    assert 0 <= leak.distance < 0.06
    copy = duplicates[frozenset({"1.png", "copy.png"})]
    assert (copy.splits, set(copy.classes)) == (("train", "train"), {"cat", "dog"})
    assert (copy.identical, copy.distance) == (True, 0)


def test_the_splits_are_those_of_a_training(photos: Path) -> None:
    dataset = open_dataset(f"folder:{photos}")
    report = check_folder(photos)
    assert report.classes == {
        name: {split_name: int((split.labels == label).sum()) for split_name, split in dataset.splits.items()}
        for label, name in enumerate(dataset.classes)
    }
    assert report.split_notes == dataset.notes
    assert report.training_error is None


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ({}, "at least 2 classes"),
        ({"cat": 5}, "at least 2 classes"),
        ({"train/cat": 3, "test/cat": 3, "test/dog": 3}, "train has no images of class dog"),
        ({"cat": 1, "dog": 1}, "too small to split"),
    ],
)
def test_a_set_that_no_training_can_use_is_checked_too(
    tmp_path: Path, classes: dict[str, int], message: str
) -> None:
    write_photos(tmp_path, classes)
    write_files(tmp_path / next(iter(classes), "cat"), {"bad.jpg": b"no image"})
    report = check_folder(tmp_path)
    assert report.training_error is not None
    assert message in report.training_error
    assert [Path(entry.file).name for entry in report.bad] == ["bad.jpg"]
    assert sum(sum(counts.values()) for counts in report.classes.values()) == sum(classes.values())


def test_sizes_are_the_smallest_the_median_and_the_largest(photos: Path) -> None:
    for name, size in (("small.png", (3, 5)), ("large.png", (90, 70))):
        Image.new("RGB", size).save(photos / "cat" / name)
    assert {rank: image_size[:2] for rank, image_size in check_folder(photos).sizes.items()} == {
        "smallest": (3, 5),
        "median": (40, 30),
        "largest": (90, 70),
    }


def test_file_names_cannot_control_a_terminal(tmp_path: Path) -> None:
    files = {
        "a\x1b[31m.jpg": b"",
        os.fsdecode(b"\xff.jpg"): b"",
        "b\x1b[31m.jpg": damage.unusual_files()["turned.jpg"],
    }
    write_files(tmp_path, files)
    source = RawDataset(
        name="list",
        classes=("x",),
        channels=3,
        images=FileImages(tmp_path, list(files)),
        labels=np.zeros(3, np.int64),
        content_hashes=[*map(str.encode, "abc")],
        root=tmp_path,
    )
    report = check(source)
    texts = [*(entry.file for entry in report.bad), *(entry.reason for entry in report.bad)]
    assert all(text.isprintable() for text in [*texts, *sum(report.notes, ())])
    assert quarantine(source, report.bad) == tmp_path / NAME
    assert (len(report.bad), len(report.notes)) == (2, 1)


def test_a_set_in_memory_is_checked_and_has_no_quarantine_list() -> None:
    source = open_source("digits")
    report = check(source)
    assert (report.n, report.bad, report.notes) == (1797, [], [])
    assert quarantine(source, report.bad) is None
    assert list(next(iter(report.classes.values()))) == ["train", "val", "test"]
