"""The set of composites: splits share nothing; images, masks and boxes agree; builds are reproducible."""

import csv
import hashlib
import io
import json
import tarfile
from pathlib import Path, PurePosixPath

import composites
import numpy as np
import photos
import pytest
from composites import SPLITS
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from photos import AMBIGUOUS, BACKGROUND
from PIL import Image, ImageDraw

from convatlas.data import open_dataset
from convatlas.data.sources import download
from convatlas.data.sources.download import DebianTree, path_below
from convatlas.errors import UsageError, UserError

CLASS_FOLDERS = {"ball": ("toy/balls",), "egg": ("food/eggs", "animals/eggs")}
NUM_STAMPS = 25
SIZE = (96, 64)
BACKGROUND_COLORS = {"train": (0, 0, 160), "val": (0, 160, 0), "test": (0, 0, 0)}


def reddish_noise(width: int, height: int, seed: int) -> NDArray[np.uint8]:
    """Noise in which no two neighbours are equal, as in a photograph."""
    values = np.random.default_rng(seed).integers(0, 50, size=(height, width, 3), dtype=np.uint8)
    return values + np.array([200, 60, 60], np.uint8)


def draw_stamp(path: Path, seed: int, flat: bool = False) -> None:
    """Draw an ellipse with a soft edge in the middle of a transparent image."""
    width, height = 60 + 5 * (seed % 7), 50 + 3 * (seed % 5)
    outline = Image.new("L", (4 * width, 4 * height))
    ImageDraw.Draw(outline).ellipse((40, 40, 4 * width - 41, 4 * height - 41), fill=255)
    if flat:
        stamp = Image.new("RGB", (width, height), (220, 40, 40))
    else:
        stamp = Image.fromarray(reddish_noise(width, height, seed))
    stamp.putalpha(outline.resize((width, height), Image.Resampling.BOX))
    path.parent.mkdir(parents=True, exist_ok=True)
    stamp.save(path)


@pytest.fixture(scope="module")
def stamps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("stamps")
    for i, letter in enumerate("abcdefghijkl"):
        draw_stamp(root / "toy" / "balls" / f"ball{letter}.png", i)
        draw_stamp(root / ("food" if i % 2 else "animals") / "eggs" / "deep" / f"egg{letter}.png", 100 + i)
    draw_stamp(root / "food" / "eggs" / "deep" / "eggb-2.png", 50)
    return root


@pytest.fixture(scope="module")
def built(stamps: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The set with one background colour for each split, which shows where an image's background is from."""
    folder = tmp_path_factory.mktemp("sets") / "photos"

    def plain_background(split: str) -> list[Image.Image]:
        return [Image.new("RGB", (120, 90), BACKGROUND_COLORS[split])]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(photos, "load_backgrounds", plain_background)
        photos.build(folder, stamps, CLASS_FOLDERS, 3, SIZE, 0)
    return folder


def manifest(folder: Path) -> list[dict[str, str]]:
    with open(folder / "classes" / "manifest.csv", newline="") as file:
        return list(csv.DictReader(file))


def read_pixels(path: Path) -> NDArray[np.uint8]:
    return np.asarray(Image.open(path))


def read_mask(folder: Path, row: dict[str, str]) -> NDArray[np.uint8]:
    return read_pixels(folder / "masks" / row["split"] / "masks" / f"{Path(row['file']).stem}.png")


def hash_files(folder: Path) -> dict[str, str]:
    """SHA-256 of each file below a folder, by its relative path."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def test_no_object_is_in_two_splits(built: Path) -> None:
    splits: dict[str, set[str]] = {}
    for row in manifest(built):
        splits.setdefault(row["group"], set()).add(row["split"])
    assert len(splits) == 24
    assert all(len(group_splits) == 1 for group_splits in splits.values())
    # two stamps that may show the same object are one group
    assert {row["group"] for row in manifest(built) if "eggb-2" in row["file"]} == {"food/eggs/deep/eggb"}


def test_no_background_is_in_two_splits(built: Path) -> None:
    names = [name for split in SPLITS for name in composites.BACKGROUNDS[split]]
    assert len(names) == len(set(names))
    for row in manifest(built):
        image = read_pixels(built / "classes" / row["file"])
        color = np.median(image[read_mask(built, row) == BACKGROUND], axis=0)
        expected = np.array(BACKGROUND_COLORS[row["split"]])
        assert (np.abs(color - expected) <= 0.16 * 160).all()  # the light's colour varies a little


def test_a_mask_lies_where_the_object_is_visible(built: Path) -> None:
    for row in manifest(built):
        mask = read_mask(built, row)
        red = read_pixels(built / "masks" / row["split"] / "images" / Path(row["file"]).name)[:, :, 0]
        is_object = (mask != BACKGROUND) & (mask != AMBIGUOUS)
        assert (red[is_object] > 100).mean() > 0.97
        assert (red[mask == BACKGROUND] < 100).mean() > 0.99
        assert (mask == AMBIGUOUS).sum() < is_object.sum()


def test_boxes_and_areas_are_those_of_the_masks(built: Path) -> None:
    labels = {Path(row["file"]).name: row["label"] for row in manifest(built)}
    count = 0
    for split in SPLITS:
        document = json.loads((built / "masks" / split / "boxes.json").read_text())
        names = {category["id"]: category["name"] for category in document["categories"]}
        files = {image["id"]: built / "masks" / split / image["file_name"] for image in document["images"]}
        assert len(files) == len(document["annotations"])
        for annotation in document["annotations"]:
            file = files[annotation["image_id"]]
            class_id = annotation["category_id"]
            mask = read_pixels(built / "masks" / split / "masks" / f"{file.stem}.png")
            assert mask.shape == read_pixels(file).shape[:2] == SIZE[::-1]
            assert set(np.unique(mask)) <= {BACKGROUND, class_id, AMBIGUOUS}
            ys, xs = np.nonzero(mask == class_id)
            assert annotation["bbox"] == [xs.min(), ys.min(), np.ptp(xs) + 1, np.ptp(ys) + 1]
            assert (annotation["area"], annotation["iscrowd"]) == (len(xs), 0)
            assert names[class_id] == labels[file.name]
            count += 1
    assert count == 3 * NUM_STAMPS


def test_classes_and_masks_hold_the_same_images(built: Path) -> None:
    for split in SPLITS:
        class_images = {file.name: file.read_bytes() for file in (built / "classes" / split).rglob("*.jpg")}
        mask_images = (built / "masks" / split / "images").iterdir()
        assert class_images == {file.name: file.read_bytes() for file in mask_images}


def test_the_set_opens_as_a_folder_with_every_class_in_every_split(built: Path) -> None:
    dataset = open_dataset(f"folder:{built}/classes")
    assert (dataset.classes, dataset.channels) == (("ball", "egg"), 3)
    for split in SPLITS:
        labels = [row["label"] for row in manifest(built) if row["split"] == split]
        counts = [labels.count("ball"), labels.count("egg")]
        assert np.bincount(dataset.splits[split].labels).tolist() == counts
        assert min(counts) >= 3
    sizes = {split: len(dataset.splits[split]) for split in SPLITS}
    assert sum(sizes.values()) == 3 * NUM_STAMPS
    assert sizes["train"] > 3 * max(sizes["val"], sizes["test"])


def test_the_manifest_lists_the_same_images(built: Path) -> None:
    from_manifest = open_dataset(f"manifest:{built}/classes/manifest.csv")
    from_folder = open_dataset(f"folder:{built}/classes")
    assert from_manifest.classes == from_folder.classes
    for split in SPLITS:
        hashes = from_manifest.splits[split].content_hashes
        assert sorted(hashes) == sorted(from_folder.splits[split].content_hashes)


def test_the_same_seed_gives_the_same_bytes(stamps: Path, tmp_path: Path) -> None:
    for name, seed in (("first", 3), ("second", 3), ("other seed", 4)):
        photos.build(tmp_path / name, stamps, CLASS_FOLDERS, 1, SIZE, seed)
    first = hash_files(tmp_path / "first")
    assert first == hash_files(tmp_path / "second")
    # another seed gives other images in the same splits
    other_seed = hash_files(tmp_path / "other seed")
    assert set(first) == set(other_seed)
    assert not any(first[name] == other_seed[name] for name in first if name.endswith(".jpg"))


def test_more_images_of_an_object_do_not_change_the_first_ones(stamps: Path, tmp_path: Path) -> None:
    photos.build(tmp_path / "small", stamps, CLASS_FOLDERS, 1, SIZE, 0)
    photos.build(tmp_path / "large", stamps, CLASS_FOLDERS, 2, SIZE, 0)
    small = hash_files(tmp_path / "small")
    small_images = {name: digest for name, digest in small.items() if name.endswith((".jpg", ".png"))}
    assert small_images.items() <= hash_files(tmp_path / "large").items()


def test_the_readme_says_composites_and_gives_the_licence(built: Path) -> None:
    text = (built / "README.txt").read_text()
    assert text.startswith("Composites")
    assert "GPL-2" in text


def test_drawings_and_mirror_images_are_left_out(tmp_path: Path) -> None:
    draw_stamp(tmp_path / "food/eggs/photo.png", 0)
    draw_stamp(tmp_path / "food/eggs/photo_mirror.png", 0)
    draw_stamp(tmp_path / "food/eggs/drawing.png", 0, flat=True)
    draw_stamp(tmp_path / "food/eggs/cartoon/shaded.png", 1)
    Image.fromarray(reddish_noise(40, 30, 0)).save(tmp_path / "food/eggs/tiny.png")
    photographs = composites.find_stamps(tmp_path, {"egg": ("food/eggs",)})
    assert [stamp.name for stamp in photographs] == ["food/eggs/photo"]


@pytest.mark.parametrize(
    ("name", "prefix", "expected"),
    [
        ("lion-2", "lion", True),
        ("Cow_white", "cow", True),
        ("pig_golden2", "pig", True),
        ("garlics", "garlic", False),
        ("goat", "lion", False),
    ],
)
def test_a_name_with_a_suffix_may_show_the_same_object(name: str, prefix: str, expected: bool) -> None:
    assert composites.may_show_same_object(name, prefix) is expected


def test_a_class_with_too_few_objects_is_refused_and_nothing_is_left(stamps: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="too few photographed objects of class cube"):
        photos.build(tmp_path / "set", stamps, {**CLASS_FOLDERS, "cube": ("toy/cubes",)}, 1, SIZE, 0)
    assert not list(tmp_path.iterdir())


def test_a_stamp_that_is_no_image_is_named(tmp_path: Path) -> None:
    path = tmp_path / "food/eggs/a.png"
    draw_stamp(path, 0)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match=r"a\.png: "):
        composites.find_stamps(tmp_path, {"egg": ("food/eggs",)})


def test_a_folder_with_other_content_is_refused_and_unchanged(stamps: Path, tmp_path: Path) -> None:
    for name in ("notes.txt", "README.txt"):
        folder = tmp_path / name.removesuffix(".txt")
        folder.mkdir()
        (folder / name).write_text("mine")
        with pytest.raises(UsageError, match=f"{folder} holds something else"):
            photos.build(folder, stamps, CLASS_FOLDERS, 1, SIZE, 0)
        assert hash_files(folder) == {name: hashlib.sha256(b"mine").hexdigest()}


def test_an_interrupted_build_leaves_the_old_set(
    stamps: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "set"
    photos.build(folder, stamps, CLASS_FOLDERS, 1, SIZE, 0)
    before = hash_files(folder)

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(photos, "coco_document", interrupt)
        with pytest.raises(KeyboardInterrupt):
            photos.build(folder, stamps, CLASS_FOLDERS, 2, SIZE, 1)
    assert hash_files(folder) == before
    assert list(tmp_path.iterdir()) == [folder]
    photos.build(folder, stamps, CLASS_FOLDERS, 2, SIZE, 1)
    assert len(manifest(folder)) == 2 * NUM_STAMPS
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize("size", ["320", "320x", "0x240", "320x99999", "16x16", "-1x40", "320X240 "])
def test_a_wrong_size_is_refused_with_the_expected_form(size: str) -> None:
    with pytest.raises(UsageError, match="expected WIDTHxHEIGHT"):
        photos.parse_size(size)


@pytest.mark.slow  # some seconds, and the package's 161 MB
def test_the_real_stamps_give_a_dozen_objects_for_each_class(tmp_path: Path) -> None:
    try:
        source = photos.STAMPS.locate()
    except UserError as error:
        pytest.skip(str(error))
    folder = tmp_path / "photos"
    images = photos.build(folder, source, photos.CLASS_FOLDERS, 1, (160, 120), 0)
    for name in photos.CLASS_FOLDERS:
        assert len({image.stamp.object_name for image in images if image.stamp.class_name == name}) >= 12
    assert not any(
        composites.DRAWING_FOLDERS & set(PurePosixPath(image.stamp.name).parts) for image in images
    )
    dataset = open_dataset(f"folder:{folder}/classes")
    assert dataset.classes == tuple(sorted(photos.CLASS_FOLDERS))
    assert all(np.bincount(dataset.splits[split].labels).min() >= 2 for split in SPLITS)
    image = read_pixels(next((folder / "classes" / "test").rglob("*.jpg")))
    assert (image.std(axis=(0, 1)) > 5).all()


# ---- downloading the stamps: one folder of a Debian package, streamed


STAMPS = DebianTree("stamps", "some-stamps", "/opt/some/stamps", (".png",))


def tar_archive(members: list[tuple[str, bytes]], links: dict[str, str] | None = None) -> bytes:
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
    """The file that the package manager downloads. Its programs are stubs, and its archive is a plain tar."""
    programs = tmp_path / "programs"
    file = tmp_path / "package"
    programs.mkdir()
    for name, command in (
        ("apt-get", f'case "$*" in *download*) cp "{file}" some.deb;; esac'),
        ("dpkg-deb", 'exec cat "$2"'),
    ):
        (programs / name).write_text(f"#!/bin/sh\n{command}\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(programs), prepend=":")
    monkeypatch.setenv("CONVATLAS_CACHE", str(tmp_path / "cache"))
    return file


def test_only_files_of_the_packages_folder_are_extracted(package: Path) -> None:
    good = {"birds/crow.png": b"crow", "crow.png": b"another"}
    bad = [
        "./opt/some/stamps/../../../evil.png",
        "/opt/some/stamps/evil.png",
        "./opt/some/evil.png",
        "./opt/some/stamps/evil.ogg",
    ]
    members = [(f"./opt/some/stamps/{name}", data) for name, data in good.items()]
    members += [(name, b"evil") for name in bad]
    links = {"./opt/some/stamps/link.png": "../../secret.png", "./opt/some/stamps/out": "../../.."}
    package.write_bytes(tar_archive(members, links))
    folder = STAMPS.locate()
    files = [path for path in folder.rglob("*") if not path.is_dir()]
    assert {str(file.relative_to(folder)): file.read_bytes() for file in files} == good
    assert not list(package.parent.rglob("evil*"))
    package.unlink()
    assert STAMPS.locate() == folder


@pytest.mark.parametrize("damage", ["cut", "damaged", "empty", "too many", "a file as a folder"])
def test_nothing_is_kept_of_a_package_that_cannot_be_read_completely(
    package: Path, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    members = [(f"./opt/some/stamps/{i}.png", bytes(1000)) for i in range(4)]
    if damage == "a file as a folder":
        members.append(("./opt/some/stamps/0.png/1.png", b""))
    if damage == "too many":
        monkeypatch.setattr(download, "MAX_FILES", 3)
    if damage == "damaged":  # at its end, which the unpacking program reports
        (package.parent / "programs" / "dpkg-deb").write_text('#!/bin/sh\ncat "$2"\nexit 2\n')
    data = tar_archive([] if damage == "empty" else members)
    package.write_bytes(data[:1000] if damage == "cut" else data)
    with pytest.raises(
        UserError,
        match="stamps is not on this machine and could not be fetched: install Debian's package some-stamps",
    ):
        STAMPS.locate()
    assert not list((package.parent / "cache" / "data").iterdir())


def test_nothing_is_downloaded_when_the_stamps_are_installed_or_named(
    tmp_path: Path, package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = tmp_path / "installed"
    named = tmp_path / "named" / "stamps"
    installed.mkdir()
    named.mkdir(parents=True)
    tree = DebianTree("stamps", "some-stamps", str(installed), (".png",))
    assert tree.locate() == installed
    monkeypatch.setenv("CONVATLAS_DATA", str(named.parent))
    assert tree.locate() == named


@given(st.lists(st.sampled_from(["..", ".", "", "opt", "some", "stamps", "a", "b.png", "\0"]), max_size=8))
def test_no_member_name_leads_out_of_the_folder(parts: list[str]) -> None:
    path = path_below("/".join(parts), "/opt/some/stamps")
    plain = [part for part in parts if part not in ("", ".")]
    if path is None:
        is_outside = plain[:3] != ["opt", "some", "stamps"]
        assert is_outside or len(plain) == 3 or {"..", "\0"} & set(plain) or parts[0] == ""
    else:
        assert PurePosixPath(path).parts == tuple(plain[3:])
        assert not {"..", "\0"} & set(plain)
        assert not path.startswith("/")
