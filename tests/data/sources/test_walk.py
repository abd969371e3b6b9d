"""Walks through folders as users have them: links, cycles, other programs' folders, files of all kinds."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from convatlas.data.sources.passed_over import describe_passed_over
from convatlas.data.sources.walk import list_images

RNG = np.random.default_rng(0)


def write_image(file: Path, image_format: str | None = None) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = RNG.integers(0, 256, size=(4, 5, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, format=image_format)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for name in ("a/1.png", "a/2.png", "b/1.png"):
        write_image(tmp_path / "photos" / name)
    return tmp_path / "photos"


ALL = ["a/1.png", "a/2.png", "b/1.png"]


def reasons(root: Path) -> dict[str, str]:
    return {entry.name: entry.reason for entry in list_images(root).passed_over}


def test_a_link_to_a_folder_above_it_is_not_followed(photos: Path) -> None:
    (photos / "a" / "up").symlink_to("..")
    for folder in ("a", "b"):
        for number in range(3):
            (photos / folder / f"far{number}").symlink_to("../..")
    assert list_images(photos).images == ALL
    assert set(reasons(photos).values()) == {"a link to a folder above it"}
    assert len(reasons(photos)) == 7


def test_a_folder_is_read_under_its_own_name_and_not_by_a_link_to_it(photos: Path) -> None:
    (photos / "a" / "b again").symlink_to("../b")
    assert list_images(photos).images == ALL
    assert reasons(photos) == {"a/b again": "read already as b"}


def test_a_folder_outside_is_read_once_by_the_first_of_its_links(photos: Path) -> None:
    write_image(photos.parent / "outside" / "deep" / "1.png")
    (photos.parent / "outside" / "deep" / "back").symlink_to(photos)
    for name in ("c", "d"):
        (photos / name).symlink_to("../outside")
    assert list_images(photos).images == [*ALL, "c/deep/1.png"]
    assert reasons(photos) == {"d": "read already as c", "c/deep/back": "read already as ."}


def test_two_folders_that_link_to_each_other_end(tmp_path: Path) -> None:
    for name, other in (("x", "y"), ("y", "x")):
        write_image(tmp_path / "outside" / name / f"{name}.png")
        (tmp_path / "outside" / name / "other").symlink_to(f"../{other}")
    (tmp_path / "photos" / "class").mkdir(parents=True)
    (tmp_path / "photos" / "class" / "x").symlink_to("../../outside/x")
    assert list_images(tmp_path / "photos").images == ["class/x/x.png", "class/x/other/y.png"]


def test_a_link_to_itself_and_a_link_to_nothing_are_named(photos: Path) -> None:
    (photos / "a" / "loop").symlink_to("loop")
    (photos / "a" / "nothing").symlink_to("nowhere")
    (photos / "a" / "gone.jpg").symlink_to("nowhere.jpg")
    assert list_images(photos).images == ["a/1.png", "a/2.png", "a/gone.jpg", "b/1.png"]
    assert reasons(photos) == {
        "a/loop": "cannot be read: Too many levels of symbolic links",
        "a/nothing": "a link to nothing",
    }


def test_runs_reports_caches_and_other_programs_folders_are_no_data(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONVATLAS_CACHE", str(photos / "cached"))
    made = ("runs/x", "report", "cached/1", "venv", "build", "__MACOSX", "@eaDir", ".ipynb_checkpoints")
    for folder in made:
        write_image(photos / folder / "curves.png")
    for file in ("runs/x/run.json", "report/evaluation.json", "venv/pyvenv.cfg", "build/CACHEDIR.TAG"):
        (photos / file).write_text("{}")
    assert list_images(photos).images == ALL
    assert reasons(photos) == {
        "runs/x": "a run's folder",
        "report": "a report's folder",
        "cached": "the cache",
        "venv": "a Python environment",
        "build": "a cache",
        "__MACOSX": "a program's own folder",
        "@eaDir": "a program's own folder",
        ".ipynb_checkpoints": "hidden",
    }


def test_a_folder_that_is_named_itself_is_read_even_if_it_is_a_run(photos: Path) -> None:
    (photos / "run.json").write_text("{}")
    assert list_images(photos).images == ALL


def test_images_are_known_by_content_where_the_extension_is_unusual(tmp_path: Path) -> None:
    files = {
        "a.jfif": "JPEG",
        "b.JPE": "JPEG",
        "c": "PNG",
        "d.data": "WEBP",
        "e.ppm": "PPM",
        "f.GIF": "GIF",
        "g.bin": "BMP",
        "h.PNG": "PNG",
        "i.webp": "WEBP",
        "j.TIFF": "TIFF",
    }
    for name, image_format in files.items():
        write_image(tmp_path / name, image_format)
    (tmp_path / "notes.txt").write_text("BM is how bitmaps start")
    (tmp_path / "k.heic").write_bytes(b"\0\0\0\x18ftypheic")
    write_image(tmp_path / "raw.nef", "TIFF")  # a camera's raw file starts like a TIFF
    assert sorted(list_images(tmp_path).images) == sorted(files)
    assert reasons(tmp_path) == {
        "notes.txt": ".txt",
        "k.heic": ".heic (not readable here)",
        "raw.nef": ".nef (not readable here)",
    }


def test_pipes_and_devices_do_not_hang(photos: Path) -> None:
    os.mkfifo(photos / "a" / "pipe.jpg")
    os.mkfifo(photos / "a" / "pipe")
    (photos / "a" / "zero.png").symlink_to("/dev/zero")
    assert list_images(photos).images == ALL
    assert set(reasons(photos).values()) == {"not a file"}


def test_folders_and_files_that_cannot_be_read_are_named(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scandir = os.scandir

    def refuse_b(path: str) -> object:
        if str(path).endswith("/b"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse_b)
    assert list_images(photos).images == ALL[:2]
    assert reasons(photos) == {"b": "cannot be read: Permission denied"}


def test_the_order_is_the_same_with_and_without_links(photos: Path) -> None:
    write_image(photos / "a" / "deep" / "0.png")
    before = list_images(photos).images
    assert before == ["a/1.png", "a/2.png", "a/deep/0.png", "b/1.png"]
    (photos / "a" / "deep").rename(photos.parent / "deep")
    (photos / "a" / "deep").symlink_to("../../deep")
    assert list_images(photos).images == before


def test_what_is_passed_over_is_counted_by_reason(photos: Path) -> None:
    for number in range(9):
        (photos / "a" / f"{number}.txt").write_text("x")
    for number in range(5):
        (photos / "b" / f"{number}.HEIC").write_bytes(b"x")
    assert (
        describe_passed_over(list_images(photos).passed_over)
        == "14 files: 9 .txt, 5 .heic (not readable here)"
    )
    (photos / "empty").mkdir()
    description = describe_passed_over(list_images(photos).passed_over)
    assert description.endswith("; 1 folder: empty (without images)")
    assert describe_passed_over([]) == ""
