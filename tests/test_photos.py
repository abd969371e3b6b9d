"""The set of composites: nothing shared between splits; pictures, masks and boxes of the same; the same bytes again."""

import csv
import hashlib
import io
import json
import runpy
import tarfile
from pathlib import Path, PurePosixPath
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from convatlas.data import open_dataset
from convatlas.data.sources import download
from convatlas.data.sources.download import DebianTree, path_below
from convatlas.errors import UsageError, UserError

photos = SimpleNamespace(**runpy.run_path(str(Path(__file__).parent.parent / "examples" / "photos.py")))
KINDS = {"ball": ("toy/balls",), "egg": ("food/eggs", "animals/eggs")}
SIZE = (96, 64)
BEHIND = {"train": (0, 0, 160), "val": (0, 160, 0), "test": (0, 0, 0)}


def noise(width: int, height: int, seed: int) -> NDArray[np.uint8]:
    """Reddish, and no two neighbours alike, as on a photograph."""
    values = np.random.default_rng(seed).integers(0, 50, size=(height, width, 3), dtype=np.uint8)
    return values + np.array([200, 60, 60], np.uint8)


def draw_stamp(path: Path, seed: int, flat: bool = False) -> None:
    """An ellipse with a soft edge, in the middle of a transparent picture."""
    width, height = 60 + 5 * (seed % 7), 50 + 3 * (seed % 5)
    outline = Image.new("L", (4 * width, 4 * height))
    ImageDraw.Draw(outline).ellipse((40, 40, 4 * width - 41, 4 * height - 41), fill=255)
    stamp = Image.new("RGB", (width, height), (220, 40, 40)) if flat else Image.fromarray(noise(width, height, seed))
    stamp.putalpha(outline.resize((width, height), Image.Resampling.BOX))
    path.parent.mkdir(parents=True, exist_ok=True)
    stamp.save(path)


@pytest.fixture(scope="module")
def stamps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("stamps")
    for i in range(12):
        draw_stamp(root / "toy" / "balls" / f"ball{'abcdefghijkl'[i]}.png", i)
        draw_stamp(root / ("food" if i % 2 else "animals") / "eggs" / "deep" / f"egg{'abcdefghijkl'[i]}.png", 100 + i)
    draw_stamp(root / "food" / "eggs" / "deep" / "eggb-2.png", 50)
    return root


@pytest.fixture(scope="module")
def built(stamps: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The set on backgrounds of one colour a split, so that one sees in a picture where they came from."""
    folder: Path = tmp_path_factory.mktemp("sets") / "photos"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(photos.build.__globals__, "photographs", lambda split: [Image.new("RGB", (120, 90), BEHIND[split])])
        photos.build(folder, stamps, KINDS, 3, SIZE, 0)
    return folder


def rows(folder: Path) -> list[dict[str, str]]:
    with open(folder / "classes" / "manifest.csv", newline="") as file:
        return list(csv.DictReader(file))


def pixels(path: Path) -> NDArray[np.uint8]:
    return np.asarray(Image.open(path))


def contents(folder: Path) -> dict[str, str]:
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.rglob("*") if file.is_file()}


def test_no_object_is_in_two_splits_nor_are_two_stamps_that_may_show_the_same(built: Path) -> None:
    splits: dict[str, set[str]] = {}
    for row in rows(built):
        splits.setdefault(row["group"], set()).add(row["split"])
    assert len(splits) == 24
    assert all(len(found) == 1 for found in splits.values())
    assert {row["group"] for row in rows(built) if "eggb-2" in row["file"]} == {"food/eggs/deep/eggb"}


def test_no_photograph_is_behind_the_objects_of_two_splits(built: Path) -> None:
    names = [name for split in photos.SPLITS for name in photos.PHOTOGRAPHS[split]]
    assert len(names) == len(set(names))
    for row in rows(built):
        picture = Path(row["file"])
        mask = pixels(built / "masks" / row["split"] / "masks" / f"{picture.stem}.png")
        behind = np.median(pixels(built / "classes" / picture)[mask == photos.BACKGROUND], axis=0)
        assert (np.abs(behind - np.array(BEHIND[row["split"]])) <= 0.16 * 160).all()  # the light's colour varies a little


def test_a_mask_lies_where_the_object_is_seen(built: Path) -> None:
    for row in rows(built):
        mask = pixels(built / "masks" / row["split"] / "masks" / f"{Path(row['file']).stem}.png")
        red = pixels(built / "masks" / row["split"] / "images" / Path(row["file"]).name)[:, :, 0]
        own = (mask != photos.BACKGROUND) & (mask != photos.AMBIGUOUS)
        assert (red[own] > 100).mean() > 0.97
        assert (red[mask == photos.BACKGROUND] < 100).mean() > 0.99
        assert (mask == photos.AMBIGUOUS).sum() < own.sum()


def test_boxes_are_the_tight_boxes_of_the_masks_and_areas_their_pixels(built: Path) -> None:
    labels = {Path(row["file"]).name: row["label"] for row in rows(built)}
    count = 0
    for split in photos.SPLITS:
        boxes = json.loads((built / "masks" / split / "boxes.json").read_text())
        names = {category["id"]: category["name"] for category in boxes["categories"]}
        files = {image["id"]: built / "masks" / split / image["file_name"] for image in boxes["images"]}
        assert len(files) == len(boxes["annotations"])
        for found in boxes["annotations"]:
            file = files[found["image_id"]]
            mask = pixels(built / "masks" / split / "masks" / f"{file.stem}.png")
            assert mask.shape == pixels(file).shape[:2] == SIZE[::-1]
            assert set(np.unique(mask)) <= {photos.BACKGROUND, found["category_id"], photos.AMBIGUOUS}
            ys, xs = np.nonzero(mask == found["category_id"])
            assert found["bbox"] == [xs.min(), ys.min(), np.ptp(xs) + 1, np.ptp(ys) + 1]
            assert (found["area"], found["iscrowd"]) == (len(xs), 0)
            assert names[found["category_id"]] == labels[file.name]
            count += 1
    assert count == 3 * 25


def test_classes_and_masks_hold_the_same_pictures(built: Path) -> None:
    for split in photos.SPLITS:
        one = {file.name: file.read_bytes() for file in (built / "classes" / split).rglob("*.jpg")}
        assert one == {file.name: file.read_bytes() for file in (built / "masks" / split / "images").iterdir()}


def test_it_opens_as_a_folder_with_every_class_in_every_split(built: Path) -> None:
    dataset = open_dataset(f"folder:{built}/classes")
    assert (dataset.classes, dataset.channels) == (("ball", "egg"), 3)
    for split in photos.SPLITS:
        labels = [row["label"] for row in rows(built) if row["split"] == split]
        assert np.bincount(dataset.splits[split].labels).tolist() == [labels.count("ball"), labels.count("egg")]
        assert min(labels.count("ball"), labels.count("egg")) >= 3
    counts = {split: len(dataset.splits[split]) for split in photos.SPLITS}
    assert sum(counts.values()) == 3 * 25
    assert counts["train"] > 3 * max(counts["val"], counts["test"])


def test_its_manifest_lists_the_same_pictures(built: Path) -> None:
    listed, found = open_dataset(f"manifest:{built}/classes/manifest.csv"), open_dataset(f"folder:{built}/classes")
    assert listed.classes == found.classes
    for split in photos.SPLITS:
        assert sorted(listed.splits[split].content_hashes) == sorted(found.splits[split].content_hashes)


def test_the_same_command_gives_the_same_bytes_and_another_seed_others_in_the_same_splits(stamps: Path, tmp_path: Path) -> None:
    for name, seed in (("one", 3), ("two", 3), ("other", 4)):
        photos.build(tmp_path / name, stamps, KINDS, 1, SIZE, seed)
    one, two, other = (contents(tmp_path / name) for name in ("one", "two", "other"))
    assert one == two
    assert set(one) == set(other)
    assert not any(one[name] == other[name] for name in one if name.endswith(".jpg"))


def test_more_pictures_of_an_object_leave_the_first_as_they_were(stamps: Path, tmp_path: Path) -> None:
    for name, count in (("few", 1), ("many", 2)):
        photos.build(tmp_path / name, stamps, KINDS, count, SIZE, 0)
    few, many = contents(tmp_path / "few"), contents(tmp_path / "many")
    assert {name: digest for name, digest in few.items() if name.endswith((".jpg", ".png"))}.items() <= many.items()


def test_it_says_what_it_is(built: Path) -> None:
    text = (built / "README.txt").read_text()
    assert text.startswith("Composites")
    assert "GPL-2" in text


def test_drawings_mirror_images_and_what_the_package_calls_drawn_are_left_out(tmp_path: Path) -> None:
    draw_stamp(tmp_path / "food/eggs/photo.png", 0)
    draw_stamp(tmp_path / "food/eggs/photo_mirror.png", 0)
    draw_stamp(tmp_path / "food/eggs/drawing.png", 0, flat=True)
    draw_stamp(tmp_path / "food/eggs/cartoon/shaded.png", 1)
    Image.fromarray(noise(40, 30, 0)).save(tmp_path / "food/eggs/tiny.png")
    assert [stamp.name for stamp in photos.find(tmp_path, {"egg": ("food/eggs",)})] == ["food/eggs/photo"]


@pytest.mark.parametrize(
    ("name", "other", "same"),
    [
        ("lion-2", "lion", True),
        ("Cow_white", "cow", True),
        ("pig_golden2", "pig", True),
        ("garlics", "garlic", False),
        ("goat", "lion", False),
    ],
)
def test_a_name_that_goes_on_where_another_ends_is_of_the_same_object(name: str, other: str, same: bool) -> None:
    assert photos.continues(name, other) is same


def test_a_class_with_too_few_objects_is_named_and_nothing_is_left(stamps: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="too few photographed objects of class cube"):
        photos.build(tmp_path / "set", stamps, {**KINDS, "cube": ("toy/cubes",)}, 1, SIZE, 0)
    assert not list(tmp_path.iterdir())


def test_a_stamp_that_is_no_image_is_named(tmp_path: Path) -> None:
    draw_stamp(tmp_path / "food/eggs/a.png", 0)
    whole = (tmp_path / "food/eggs/a.png").read_bytes()
    (tmp_path / "food/eggs/a.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"a\.png: "):
        photos.find(tmp_path, {"egg": ("food/eggs",)})


def test_a_folder_with_something_else_in_it_is_refused_and_left_alone(stamps: Path, tmp_path: Path) -> None:
    for name in ("notes.txt", "README.txt"):
        folder = tmp_path / name.removesuffix(".txt")
        folder.mkdir()
        (folder / name).write_text("mine")
        with pytest.raises(UsageError, match=f"{folder} holds something else"):
            photos.build(folder, stamps, KINDS, 1, SIZE, 0)
        assert contents(folder) == {name: hashlib.sha256(b"mine").hexdigest()}


def test_an_interrupted_build_leaves_the_set_that_was_there(stamps: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "set"
    photos.build(folder, stamps, KINDS, 1, SIZE, 0)
    before = contents(folder)

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setitem(photos.build.__globals__, "coco", interrupted)
        with pytest.raises(KeyboardInterrupt):
            photos.build(folder, stamps, KINDS, 2, SIZE, 1)
    assert contents(folder) == before
    assert list(tmp_path.iterdir()) == [folder]
    photos.build(folder, stamps, KINDS, 2, SIZE, 1)
    assert len(rows(folder)) == 2 * 25
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize("size", ["320", "320x", "0x240", "320x99999", "16x16", "-1x40", "320X240 "])
def test_a_size_that_is_none_is_said(size: str) -> None:
    with pytest.raises(UsageError, match="expected WIDTHxHEIGHT"):
        photos.in_pixels(size)


@pytest.mark.slow  # some seconds, and the package's 161 MB
def test_the_real_stamps_give_seven_classes_of_a_dozen_objects_or_more(tmp_path: Path) -> None:
    try:
        source = photos.STAMPS.locate()
    except UserError as error:
        pytest.skip(str(error))
    pictures = photos.build(tmp_path / "photos", source, photos.KINDS, 1, (160, 120), 0)
    things = {kind: {p.stamp.thing for p in pictures if p.stamp.kind == kind} for kind in photos.KINDS}
    assert all(len(found) >= 12 for found in things.values())
    assert not any(photos.DRAWN & set(PurePosixPath(p.stamp.name).parts) for p in pictures)
    dataset = open_dataset(f"folder:{tmp_path}/photos/classes")
    assert dataset.classes == tuple(sorted(photos.KINDS))
    assert all(np.bincount(dataset.splits[split].labels).min() >= 2 for split in photos.SPLITS)
    assert (pixels(next((tmp_path / "photos" / "classes" / "test").rglob("*.jpg"))).std(axis=(0, 1)) > 5).all()


# ---- the stamps' way here: a package's folder, streamed


STAMPS = DebianTree("stamps", "some-stamps", "/opt/some/stamps", (".png",))


def archive(members: list[tuple[str, bytes]], links: dict[str, str] | None = None) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, target in (links or {}).items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            tar.addfile(info)
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What is written to this file is what the package manager brings: its programs are stood in for, its archive is a plain tar."""
    programs, file = tmp_path / "programs", tmp_path / "package"
    programs.mkdir()
    for name, text in (("apt-get", f'case "$*" in *download*) cp "{file}" some.deb;; esac'), ("dpkg-deb", 'exec cat "$2"')):
        (programs / name).write_text(f"#!/bin/sh\n{text}\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(programs), prepend=":")
    monkeypatch.setenv("CONVATLAS_CACHE", str(tmp_path / "cache"))
    return file


def test_a_packages_folder_is_brought_with_its_folders_and_nothing_else(package: Path) -> None:
    good = {"birds/crow.png": b"crow", "crow.png": b"another"}
    bad = ["./opt/some/stamps/../../../evil.png", "/opt/some/stamps/evil.png", "./opt/some/evil.png", "./opt/some/stamps/evil.ogg"]
    members = [(f"./opt/some/stamps/{name}", data) for name, data in good.items()] + [(name, b"evil") for name in bad]
    package.write_bytes(archive(members, {"./opt/some/stamps/link.png": "../../secret.png", "./opt/some/stamps/out": "../../.."}))
    folder = STAMPS.locate()
    assert {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if not file.is_dir()} == good
    assert not list(package.parent.rglob("evil*"))
    package.unlink()
    assert STAMPS.locate() == folder


@pytest.mark.parametrize("kind", ["cut", "damaged", "empty", "too many", "a file as a folder"])
def test_of_a_package_that_cannot_be_read_to_its_end_nothing_is_kept(package: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    members = [(f"./opt/some/stamps/{i}.png", bytes(1000)) for i in range(4)]
    if kind == "a file as a folder":
        members.append(("./opt/some/stamps/0.png/1.png", b""))
    if kind == "too many":
        monkeypatch.setattr(download, "MAX_FILES", 3)
    if kind == "damaged":  # at its end, of which the one that unpacks it complains
        (package.parent / "programs" / "dpkg-deb").write_text('#!/bin/sh\ncat "$2"\nexit 2\n')
    data = archive([] if kind == "empty" else members)
    package.write_bytes(data[:1000] if kind == "cut" else data)
    with pytest.raises(UserError, match="stamps is not on this machine and could not be fetched: install Debian's package some-stamps"):
        STAMPS.locate()
    assert not list((package.parent / "cache" / "data").iterdir())


def test_where_it_is_installed_or_named_nothing_is_fetched(tmp_path: Path, package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed, named = tmp_path / "installed", tmp_path / "named" / "stamps"
    installed.mkdir()
    named.mkdir(parents=True)
    tree = DebianTree("stamps", "some-stamps", str(installed), (".png",))
    assert tree.locate() == installed
    monkeypatch.setenv("CONVATLAS_DATA", str(named.parent))
    assert tree.locate() == named


@given(st.lists(st.sampled_from(["..", ".", "", "opt", "some", "stamps", "a", "b.png", "\0"]), max_size=8))
def test_no_name_leads_out_of_the_folder(parts: list[str]) -> None:
    found = path_below("/".join(parts), "/opt/some/stamps")
    plain = [part for part in parts if part not in ("", ".")]
    if found is None:
        assert plain[:3] != ["opt", "some", "stamps"] or len(plain) == 3 or {"..", "\0"} & set(plain) or parts[0] == ""
    else:
        assert PurePosixPath(found).parts == tuple(plain[3:])
        assert not {"..", "\0"} & set(plain)
        assert not found.startswith("/")
