"""Local shards in the WebDataset layout. The oracle: the standard library's tarfile writes and reads them.

Format: github.com/webdataset/webdataset, "The WebDataset Format". The members of a tar archive whose names
are equal up to the first dot of the last split_name are a sample; the rest of a name says what a member
holds.
"""

import bz2
import functools
import gzip
import io
import itertools
import lzma
import os
import pickle
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.changed_files import lengthen
from helpers.messages import is_harmless_line
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from convatlas.data import open_dataset
from convatlas.data.dataset import Dataset
from convatlas.data.images.decode import EncodedImage
from convatlas.data.images.unreadable import UnreadableImage
from convatlas.data.sources import tar_index
from convatlas.errors import UserError
from convatlas.names import unescape_name

RNG = np.random.default_rng(0)
CLASSES = ("cat", "dog")
BLOCK = 512  # bytes: a header, and the unit of what follows it (POSIX.1-2001, ustar)
FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}

Member = tuple[str | tarfile.TarInfo, bytes]


def encoded(gray: bool = False, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(RNG.integers(0, 256, (6, 8) if gray else (6, 8, 3), np.uint8)).save(buffer, kind)
    return buffer.getvalue()


IMAGE = encoded()


def samples(numbers: Iterable[int], classes: Sequence[str] = CLASSES, gray: bool = False) -> list[Member]:
    """An image and its class under every key, the classes in turn."""
    members: list[Member] = []
    for number in numbers:
        members.append((f"{number:04}.png", encoded(gray)))
        members.append((f"{number:04}.cls", classes[number % len(classes)].encode()))
    return members


def header(
    name: str, kind: bytes = tarfile.REGTYPE, size: int = 0, pax: Mapping[str, str] | None = None
) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    info.size = size
    info.linkname = "0000.png" if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE) else ""
    info.pax_headers = dict(pax or {})
    return info


def write_shard(
    file: Path, members: Iterable[Member], kind: int = tarfile.PAX_FORMAT, **options: Any
) -> Path:
    """Write a tar archive. A member is its name or a header, which may lie, and its bytes."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w", format=kind, **options) as archive:
        for member, data in members:
            info = header(member, size=len(data)) if isinstance(member, str) else member
            archive.addfile(info, io.BytesIO(data) if data else None)
    return file


def decoded(data: bytes) -> bytes:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).tobytes()


def written(*shards: Path) -> dict[str, tuple[str, bytes]]:
    """By name, the class and the pixels of every image in shards of `samples`."""
    images = {}
    for shard in shards:
        with tarfile.open(shard) as archive:
            contents = {info.name: stream.read() for info in archive if (stream := archive.extractfile(info))}
        for name, data in contents.items():
            if name.endswith(".png"):
                images[f"{shard}/{name}"] = contents[name.replace(".png", ".cls")].decode(), decoded(data)
    return images


def read(dataset: Dataset, split_name: str) -> dict[str, tuple[str, bytes]]:
    """The same of a split, read in random order."""
    split = dataset.splits[split_name]
    order = map(int, RNG.permutation(len(split)))
    images = {}
    for i in order:
        pixels = split.images.image(i).decode(3, (0, 0))
        images[split.images.name(i)] = dataset.classes[split.labels[i]], pixels.tobytes()
    return images


def read_all(dataset: Dataset) -> dict[str, tuple[str, bytes]]:
    return {
        name: content for split_name in dataset.splits for name, content in read(dataset, split_name).items()
    }


def refusal(pattern: object) -> str:
    """The one sentence with which these shards are refused."""
    with pytest.raises(UserError) as caught:
        open_dataset(f"tar:{pattern}")
    message = str(caught.value)
    assert message.isprintable()
    return message


# What shards hold


@pytest.mark.parametrize("form", FORMATS)
def test_images_read_at_random_are_those_that_were_written(tmp_path: Path, form: str) -> None:
    counts = {"train-000": 5, "train-001": 2, "train-002": 3, "val-000": 4, "test-000": 2}
    numbers = itertools.count()
    files = {
        name: write_shard(tmp_path / f"{name}.tar", samples(itertools.islice(numbers, count)), FORMATS[form])
        for name, count in counts.items()
    }
    dataset = open_dataset(f"tar:{tmp_path}/*.tar")
    assert (dataset.classes, dataset.channels, dataset.size, dataset.root) == (CLASSES, 3, None, tmp_path)
    assert list(dataset.splits) == ["train", "val", "test"]
    for split_name in dataset.splits:
        shards = [file for name, file in files.items() if name.startswith(split_name)]
        assert read(dataset, split_name) == written(*shards)
    assert dataset.notes == ()


def test_an_image_is_read_from_its_first_byte_to_its_last(tmp_path: Path) -> None:
    members = samples(range(20))
    shard = write_shard(tmp_path / "0.tar", members)
    for split in open_dataset(f"tar:{shard}").splits.values():
        for i in range(len(split)):
            image = split.images.image(i)
            assert isinstance(image, EncodedImage)
            assert image.data == dict(members)[image.name.removeprefix(f"{shard}/")]


def test_images_are_in_order_of_shard_names_then_of_members(tmp_path: Path) -> None:
    for name in ("train-b", "train-a", "val-a", "test-a"):
        write_shard(tmp_path / f"{name}.tar", samples((2, 0, 1)))
    images = open_dataset(f"tar:{tmp_path}/{{val-a,train-b,train-a,test-a}}.tar").splits["train"].images
    names = [images.name(i) for i in range(len(images))]
    assert names == [
        f"{tmp_path}/train-{shard}.tar/{key}.png" for shard in "ab" for key in ("0002", "0000", "0001")
    ]


def test_a_split_depends_on_content_and_not_on_shards(tmp_path: Path) -> None:
    members = samples(range(40))
    write_shard(tmp_path / "single" / "latest.tar", members)
    for name, start, end in (("c", 0, 14), ("b", 14, 50), ("a", 50, 80)):
        write_shard(tmp_path / "several" / f"{name}.tar", members[start:end])
    single, several = (open_dataset(f"tar:{tmp_path}/{name}/*.tar") for name in ("single", "several"))
    assert {split_name: len(split) for split_name, split in single.splits.items()} == {
        "train": 32,
        "val": 4,
        "test": 4,
    }
    for split_name, split in single.splits.items():
        assert sorted(split.content_hashes) == sorted(several.splits[split_name].content_hashes)
        assert sorted(read(single, split_name).values()) == sorted(read(several, split_name).values())


@pytest.mark.parametrize(
    "names",
    [
        ("train-0.tar", "val-0.tar", "test-0.tar"),
        ("photos_Train_0.tar", "photos_Validation_0.tar", "photos_TESTING_0.tar"),
        ("training/0.tar", "valid/0.tar", "testing/0.tar"),
        ("0train.tar", "1val.tar", "2test.tar"),
    ],
)
def test_splits_are_words_in_the_names_of_shards(tmp_path: Path, names: tuple[str, str, str]) -> None:
    home = tmp_path / "test"  # the folder of all shards says nothing about one
    files = [write_shard(home / name, samples(range(2 + 2 * i))) for i, name in enumerate(names)]
    dataset = open_dataset(f"tar:{{{','.join(map(str, files))}}}")
    assert {split_name: len(split) for split_name, split in dataset.splits.items()} == {
        "train": 2,
        "val": 4,
        "test": 6,
    }


@pytest.mark.parametrize("name", ["latest", "contest-0", "strain", "éval", "7tests"])
def test_parts_of_words_name_no_split(tmp_path: Path, name: str) -> None:
    file = write_shard(tmp_path / f"{name}.tar", samples(range(20)))
    dataset = open_dataset(f"tar:{file}")
    assert {split_name: len(split) for split_name, split in dataset.splits.items()} == {
        "train": 16,
        "val": 2,
        "test": 2,
    }


LABELS: dict[str, tuple[dict[str, bytes], str]] = {
    "cls": ({"cls": b"dog"}, "dog"),
    "cls with a line's end": ({"cls": b" dog\r\n"}, "dog"),
    "txt": ({"txt": "größer Hund\n".encode()}, "größer Hund"),
    "json label": ({"json": b'{"label": "dog", "cls": "cat", "width": 8}'}, "dog"),
    "json cls": ({"json": b'{"cls": 3}'}, "3"),
    "json null label": ({"json": b'{"label": null, "cls": "dog"}'}, "dog"),
    "json zero": ({"json": b'{"label": 0, "cls": 1}'}, "0"),
    "cls before json and txt": ({"txt": b"a dog", "json": b'{"label": "cat"}', "cls": b"dog"}, "dog"),
    "json before txt": ({"txt": b"a dog on grass", "json": b'{"label": "dog"}'}, "dog"),
    "json without a label": ({"json": b'{"width": 8}', "txt": b"dog"}, "dog"),
    "json that is a list": ({"json": b"[1]", "txt": b"dog"}, "dog"),
    "json with a wrong type": ({"json": b'{"label": 0.5}', "txt": b"dog"}, "dog"),
    "damaged json": ({"json": b'{"label"', "txt": b"dog"}, "dog"),
    "deep json": ({"json": b'{"boxes": ' + b"[" * 100_000, "txt": b"dog"}, "dog"),
    "cls in no UTF-8": ({"cls": b"\xff\xfe", "txt": b"dog"}, "dog"),
    "upper case": ({"CLS": b"dog"}, "dog"),
}


@pytest.mark.parametrize("case", LABELS)
def test_a_label_is_the_first_of_cls_json_and_txt_that_holds_one(tmp_path: Path, case: str) -> None:
    labels, expected = LABELS[case]
    members: list[Member] = [
        ("odd.png", encoded()),
        *((f"odd.{kind}", data) for kind, data in labels.items()),
    ]
    for split_name in ("val", "test"):  # whose classes every split needs
        write_shard(tmp_path / f"{split_name}.tar", [*samples(range(2), (expected, "zebra"))])
    train = write_shard(tmp_path / "train.tar", [*members, *samples([1], ("", "zebra"))])
    assert read(open_dataset(f"tar:{tmp_path}/*.tar"), "train")[f"{train}/odd.png"][0] == expected


def test_keys_end_at_the_first_dot_of_a_name(tmp_path: Path) -> None:
    longest = "/".join(["folder"] * 30) + "/0001"  # more than a plain header holds
    members: list[Member] = [
        (header("./a", tarfile.DIRTYPE), b""),
        (header("a/0003.png", tarfile.DIRTYPE), b""),
        ("./a/0001.PNG", IMAGE),
        ("a/0001.seg.png", b"no image of its own"),
        ("a/0001.cls", b"cat"),
        ("a.b/0001.cls", b"dog"),  # before its image, and another sample's members between
        ("__key__", b"not a sample"),
        ("a/._0001.png", b"what macOS adds"),
        (f"{longest}.jpeg", encoded(kind="JPEG")),
        (f"{longest}.cls", b"cat"),
        ("a/hündchen.webp", encoded(kind="WEBP")),
        ("a/hündchen.cls", b"dog"),
        ("a.b/0001.bmp", encoded(kind="BMP")),
        ("a/0002.cls", b"of no image"),
    ]
    train = write_shard(tmp_path / "train.tar", members)
    for split_name in ("val", "test"):
        write_shard(tmp_path / f"{split_name}.tar", samples(range(2)))
    images = read(open_dataset(f"tar:{tmp_path}/*.tar"), "train")
    assert {name.removeprefix(f"{train}/"): label for name, (label, _) in images.items()} == {
        "a/0001.PNG": "cat",
        f"{longest}.jpeg": "cat",
        "a/hündchen.webp": "dog",
        "a.b/0001.bmp": "dog",
    }
    assert images[f"{train}/a/0001.PNG"][1] == decoded(IMAGE)
    assert images[f"{train}/a.b/0001.bmp"][1] == decoded(dict(members)["a.b/0001.bmp"])


def test_names_that_are_not_utf8_are_read_and_escaped(tmp_path: Path, indexed: list[str]) -> None:
    members = [(f"{letter}{name}", data) for letter in "äö" for name, data in samples(range(10))]
    file = write_shard(tmp_path / "0.tar", members, tarfile.GNU_FORMAT, encoding="latin-1")
    indexed.clear()
    for _ in range(2):  # from the archive, and from the cache
        names = set(read_all(open_dataset(f"tar:{file}")))
        assert names == {f"{file}/\\x{byte}{n:04}.png" for byte in ("e4", "f6") for n in range(10)}
    assert indexed.count("0.tar") == 1


def test_a_name_that_is_not_utf8_is_escaped_as_everywhere_and_can_be_read_back(tmp_path: Path) -> None:
    members = [(f"\xe4\\x{name}", data) for name, data in samples(range(10))]
    file = write_shard(tmp_path / "0.tar", members, tarfile.GNU_FORMAT, encoding="latin-1")
    names = sorted(read_all(open_dataset(f"tar:{file}")))
    assert names[0] == f"{file}/\\xe4\\x5cx0000.png"
    assert unescape_name(names[0].removeprefix(f"{file}/")) == os.fsdecode(b"\xe4\\x0000.png")


@pytest.mark.skipif(not shutil.which("tar"), reason="the command tar is not installed")
def test_a_shard_that_the_command_tar_wrote_is_read(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    members = {str(name): data for name, data in samples(range(20))}
    for name, data in members.items():
        (tmp_path / "photos" / name).write_bytes(data)
    subprocess.run(["tar", "-cf", str(tmp_path / "0.tar"), "-C", str(tmp_path / "photos"), "."], check=True)
    images = read_all(open_dataset(f"tar:{tmp_path}/0.tar"))
    assert len(images) == 20
    for name, (label, pixels) in images.items():
        member = name.removeprefix(f"{tmp_path}/0.tar/")
        assert label.encode() == members[member.replace(".png", ".cls")]
        assert pixels == decoded(members[member])


def test_equal_keys_in_two_shards_are_two_samples(tmp_path: Path) -> None:
    shards = [write_shard(tmp_path / f"{i}.tar", samples(range(10))) for i in range(2)]
    assert read_all(open_dataset(f"tar:{tmp_path}/*.tar")) == written(*shards)


def test_classes_that_are_numbers_are_in_numeric_order(tmp_path: Path) -> None:
    classes = [("10", "100"), ("9", "100")]
    shards = [write_shard(tmp_path / f"{i}.tar", samples(range(20), classes[i])) for i in range(2)]
    dataset = open_dataset(f"tar:{tmp_path}/*.tar")
    assert dataset.classes == ("9", "10", "100")
    assert read_all(dataset) == written(*shards)


def test_a_list_of_classes_beside_the_shards_names_numbers(tmp_path: Path) -> None:
    shard = write_shard(tmp_path / "0.tar", samples(range(20), ("10", "2")))
    names = [f"class {i} " for i in range(12)]  # of which only two have images
    (tmp_path / "classes.txt").write_text("\n".join(names))
    dataset = open_dataset(f"tar:{shard}")
    assert dataset.classes == ("class 2", "class 10")
    images = {name: (f"class {number}", pixels) for name, (number, pixels) in written(shard).items()}
    assert read_all(dataset) == images


def test_a_list_of_classes_does_not_rename_classes_with_names(tmp_path: Path) -> None:
    shard = write_shard(tmp_path / "0.tar", samples(range(20)))
    (tmp_path / "classes.txt").write_text("one\ntwo\n")
    assert open_dataset(f"tar:{shard}").classes == CLASSES


@pytest.mark.parametrize("mark", ["\ufeff", ""])
def test_a_byte_order_mark_is_no_part_of_a_class_name(tmp_path: Path, mark: str) -> None:
    file = write_shard(tmp_path / "0.tar", samples(range(20), ("0", "1")))
    (tmp_path / "classes.txt").write_text(f"{mark}cat\ndog\n")
    assert open_dataset(f"tar:{file}").classes == ("cat", "dog")


def odd_jpegs(gray: bool) -> dict[str, bytes]:
    """Files whose header libjpeg-turbo reads and Pillow does not."""
    data = encoded(gray, "JPEG")
    after_jfif = data[4 + int.from_bytes(data[4:6], "big") :]
    frame = data.index(b"\xff\xc0")
    return {
        "12 bits": data[: frame + 4] + b"\x0c" + data[frame + 5 :],
        "short JFIF": data[:2] + b"\xff\xe0\x00\x07JFIF\0" + after_jfif,
        "short Adobe": data[:2] + b"\xff\xee\x00\x07Adobe" + after_jfif,
        "short ICC": data[:2] + b"\xff\xe2\x00\x0eICC_PROFILE\0" + after_jfif,
    }


@pytest.mark.parametrize("kind", odd_jpegs(True))
@pytest.mark.parametrize("gray", [True, False])
@pytest.mark.parametrize("source", ["tar", "folder"])
def test_an_image_that_pillow_refuses_spoils_no_data_set(
    tmp_path: Path, kind: str, gray: bool, source: str
) -> None:
    odd: list[Member] = [("odd.jpg", odd_jpegs(gray)[kind]), ("odd.cls", b"cat")]
    members = [*odd, *samples(range(20), gray=True)]
    if source == "tar":
        write_shard(tmp_path / "0.tar", members)
    for (name, data), (_, label) in zip(members[::2], members[1::2], strict=True):
        (tmp_path / label.decode()).mkdir(exist_ok=True)
        (tmp_path / label.decode() / str(name)).write_bytes(data)
    dataset = open_dataset(f"tar:{tmp_path}/0.tar" if source == "tar" else f"folder:{tmp_path}")
    assert dataset.channels == (1 if gray else 3)


def test_shards_have_one_channel_only_if_every_image_is_gray(tmp_path: Path) -> None:
    name = f"tar:{tmp_path}/*.tar"
    broken: list[Member] = [("broken.png", b"no image"), ("broken.cls", b"cat")]  # of no colour
    write_shard(tmp_path / "0.tar", [*samples(range(20), gray=True), *broken])
    assert open_dataset(name).channels == 1
    write_shard(tmp_path / "1.tar", [*samples([20]), *samples([21], gray=True)])
    assert open_dataset(name).channels == 3


@pytest.mark.parametrize("data", [b"", b"no image", IMAGE[: len(IMAGE) // 2]])
def test_a_broken_image_is_named_by_shard_and_member(tmp_path: Path, data: bytes) -> None:
    for split_name in ("val", "test"):
        write_shard(tmp_path / f"{split_name}.tar", samples(range(2)))
    broken: list[Member] = [("a/broken.png", data), ("a/broken.cls", b"cat")]
    train = write_shard(tmp_path / "train.tar", [*samples(range(2)), *broken])
    images = open_dataset(f"tar:{tmp_path}/*.tar").splits["train"].images
    with pytest.raises(UnreadableImage) as caught:
        images.image(2).decode(3, (0, 0))
    assert caught.value.name == images.name(2) == f"{train}/a/broken.png"


def test_pickled_images_hold_no_content(tmp_path: Path) -> None:
    shard = write_shard(tmp_path / "0.tar", samples(range(40)))
    images = open_dataset(f"tar:{shard}").splits["train"].images
    pickled = pickle.dumps(images)
    assert len(pickled) < 4_000 < len(encoded()) * len(images)
    copy = pickle.loads(pickled)
    for i in range(len(images)):
        np.testing.assert_array_equal(copy.image(i).decode(3, (0, 0)), images.image(i).decode(3, (0, 0)))


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="lists open files by /proc")
def test_samples_without_an_image_that_is_read_are_counted(tmp_path: Path) -> None:
    others: list[Member] = [
        ("a.heic", b"x"),
        ("a.cls", b"cat"),
        ("b.cls", b"dog"),
        ("0000.txt", b"a caption"),
    ]
    write_shard(tmp_path / "photos.tar", [*samples(range(20)), *others])
    dataset = open_dataset(f"tar:{tmp_path}/photos.tar")
    assert sum(map(len, dataset.splits.values())) == 20
    assert dataset.passed_over == "2 files: 1 .cls, 1 .heic (not readable here)"


def test_no_shard_stays_open(tmp_path: Path) -> None:
    shard = write_shard(tmp_path / "0.tar", samples(range(20)))
    images = open_dataset(f"tar:{shard}").splits["train"].images
    assert images.image(0).height == 6
    with pytest.raises(UserError):
        open_dataset(f"tar:{write_shard(tmp_path / '1.tar', [('../a.png', IMAGE)])}")
    open_files = [os.readlink(link) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    assert not [file for file in open_files if file.startswith(str(tmp_path))]


# Shards that are refused

LARGE = 600 << 20
SPARSE = {
    "0.0": {
        "GNU.sparse.size": "512",
        "GNU.sparse.numblocks": "1",
        "GNU.sparse.offset": "0",
        "GNU.sparse.numbytes": "512",
    },
    "0.1": {"GNU.sparse.size": "512", "GNU.sparse.map": "0,512"},
    "1.0": {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "512"},
}
NO_PLACE = "which is no plain file: links and devices have no place in a shard"
LEADS_OUT = "which leads out of the archive: name members from the archive's top, without '..'"
NO_LABEL = "has no label: expected {}.cls or {}.txt with a class, or {}.json with a 'label'"

MEMBERS: dict[str, tuple[list[Member], str]] = {
    "above": ([("../a.png", IMAGE)], f"has the member ../a.png, {LEADS_OUT}"),
    "above by a detour": ([("a/../../b.png", IMAGE)], f"has the member a/../../b.png, {LEADS_OUT}"),
    "above, no image": ([("../readme", b"")], LEADS_OUT),
    "above, a folder": ([(header("a/..", tarfile.DIRTYPE), b"")], LEADS_OUT),
    "above, with backslashes": ([("..\\a.png", IMAGE)], LEADS_OUT),
    "absolute": ([("/a.png", IMAGE)], f"has the member /a.png, {LEADS_OUT}"),
    "absolute, with a backslash": ([("\\a.png", IMAGE)], LEADS_OUT),
    "symbolic link": ([(header("a.png", tarfile.SYMTYPE), b"")], f"has the member a.png, {NO_PLACE}"),
    "hard link": ([(header("a.png", tarfile.LNKTYPE), b"")], NO_PLACE),
    "character device": ([(header("a.png", tarfile.CHRTYPE), b"")], NO_PLACE),
    "block device": ([(header("a.png", tarfile.BLKTYPE), b"")], NO_PLACE),
    "pipe": ([(header("a.png", tarfile.FIFOTYPE), b"")], NO_PLACE),
    "unknown kind": ([(header("a.png", b"Z", len(IMAGE)), IMAGE)], NO_PLACE),
    "sparse, old": ([(header("a.png", tarfile.GNUTYPE_SPARSE), b"")], NO_PLACE),
    "sparse, 0.0": ([(header("a.png", size=512, pax=SPARSE["0.0"]), bytes(512))], NO_PLACE),
    "sparse, 0.1": ([(header("a.png", size=512, pax=SPARSE["0.1"]), bytes(512))], NO_PLACE),
    "sparse, 1.0": (
        [(header("a.png", size=1024, pax=SPARSE["1.0"]), b"1\n0\n512\n".ljust(1024, b"\0"))],
        NO_PLACE,
    ),
    "two images": (
        [("a/1.png", IMAGE), ("a/1.cls", b"cat"), ("a/1.jpg", IMAGE)],
        "has two images with the key a/1: expected one for a sample",
    ),
    "one image twice": (
        [("1.png", IMAGE), ("1.cls", b"cat"), ("./1.png", IMAGE)],
        "has two images with the key 1",
    ),
    "one label twice": (
        [("1.png", IMAGE), ("1.cls", b"cat"), ("1.txt", b"cat"), ("1.cls", b"cat")],
        "has the member 1.cls twice: expected one for a sample",
    ),
    "one label twice, the first without a class": (
        [("1.json", b"{}"), ("1.json", b'{"label": "cat"}'), ("1.png", IMAGE)],
        "has the member 1.json twice: expected one for a sample",
    ),
    "one label twice, in another case": (
        [("1.json", b'{"label": 1}'), ("1.JSON", b'{"label": 2}')],
        "has the member 1.JSON twice",
    ),
    "too large an image": (
        [(header("a.png", size=LARGE), b"")],
        "a.png has 629,145,600 bytes, more than the 536,870,912 that are read",
    ),
    "too large a label": (
        [("a.txt", bytes((1 << 20) + 1))],
        "a.txt has 1,048,577 bytes, more than the 1,048,576 that are read",
    ),
    "size beyond the end": (
        [(header("a.bin", size=LARGE), b"")],
        "is not a complete tar archive (unexpected end of data)",
    ),
    "image beyond the end": (
        [(header("a.png", size=1 << 20), b"")],
        "is not a complete tar archive (unexpected end of data)",
    ),
    "no offset is so large": ([(header("a.bin", size=1 << 80), b"")], "is not a complete tar archive ("),
    "chain of headers": ([(header("a", tarfile.XHDTYPE), b"")] * 5000, "is not a complete tar archive ("),
    "no label": ([("a/1.png", IMAGE), ("1.cls", b"cat")], "a/1.png " + NO_LABEL.replace("{}", "a/1")),
    "labels that hold none": (
        [("1.png", IMAGE), ("1.json", b"{}"), ("1.cls", b"\xff")],
        "1.png " + NO_LABEL.replace("{}", "1"),
    ),
    "empty label": (
        [("1.png", IMAGE), ("1.cls", b" \n"), ("1.txt", b"cat")],
        "1.png has the label '': expected a class's name or number",
    ),
    "label of two lines": (
        [("1.png", IMAGE), ("1.txt", b"a\nb")],
        "1.png has the label 'a\\x0ab': expected a class's name or number",
    ),
    "label that is too long": (
        [("1.png", IMAGE), ("1.txt", b"x" * 1001)],
        f"1.png has the label '{'x' * 40}...'",
    ),
    "name that a terminal would obey": ([("\x1b[2J.png", IMAGE)], "/0.tar: \\x1b[2J.png has no label"),
}


@pytest.mark.parametrize("case", MEMBERS)
def test_a_hostile_or_useless_member_is_refused_by_name(tmp_path: Path, case: str) -> None:
    members, message = MEMBERS[case]
    file = write_shard(tmp_path / "0.tar", [*samples(range(20)), *members])
    text = refusal(file)
    assert text.startswith(str(file))
    assert message in text


@pytest.mark.parametrize("form", ["gnu", "pax"])
@pytest.mark.parametrize("first", [True, False])
def test_a_negative_size_is_refused(tmp_path: Path, form: str, first: bool) -> None:
    before = [] if first else samples(range(2))
    file = write_shard(tmp_path / "0.tar", [*before, (header("a.png", size=-BLOCK), b"")], FORMATS[form])
    reason = "which lies about its size: the archive is damaged or made to do harm"
    assert refusal(file) == f"{file} has the member a.png, {reason}"


EXTENSIONS = [
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
]


@pytest.mark.parametrize("kind", EXTENSIONS)
@pytest.mark.parametrize("size", [(64 << 10) + 1, 1 << 50, 1 << 63, -1])
def test_a_long_name_or_attributes_above_the_limit_are_refused_unread(
    tmp_path: Path, kind: bytes, size: int
) -> None:
    members = [*samples(range(20)), (header("name", kind, size), b"")]
    file = write_shard(tmp_path / "0.tar", members, tarfile.GNU_FORMAT)
    reason = f"a name or attributes of {size:,} bytes"
    assert refusal(file) == f"{file} is not a complete tar archive ({reason}): write or copy it again"


def test_attributes_up_to_the_limit_are_read(tmp_path: Path) -> None:
    note = {"comment": "x" * (60 << 10)}
    file = write_shard(
        tmp_path / "0.tar",
        [(header(str(name), size=len(data), pax=note), data) for name, data in samples(range(20))],
    )
    assert len(read_all(open_dataset(f"tar:{file}"))) == 20


def test_a_header_of_digits_takes_no_minutes(tmp_path: Path) -> None:
    """CVE-2024-6232 of tarfile, fixed in Python 3.11.10: time quadratic in the header's length."""
    digits = b"1" * (1 << 18)
    members = [*samples(range(20)), (header("pax", tarfile.XHDTYPE, len(digits)), digits)]
    file = write_shard(tmp_path / "0.tar", members)
    assert refusal(file).startswith(f"{file} is not a complete tar archive (")


def test_a_sparse_header_at_the_end_of_a_file_is_refused(tmp_path: Path) -> None:
    block = bytearray(header("a.png", tarfile.GNUTYPE_SPARSE).tobuf(tarfile.GNU_FORMAT))
    block[482] = 1  # more blocks of the map follow
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    content, _, end = small_shard()
    file = tmp_path / "0.tar"
    file.write_bytes(content[:end] + block)
    assert refusal(file).startswith(f"{file} is not a complete tar archive (")


def test_members_that_overlap_are_refused(tmp_path: Path) -> None:
    sizes = {"size": "4096"}  # of all members, whatever their headers say
    file = write_shard(tmp_path / "0.tar", samples(range(2)), pax_headers=sizes)
    assert "0000.cls, which lies about its size" in refusal(file)


def test_labels_up_to_the_limit_are_read(tmp_path: Path) -> None:
    members = [
        (name, data.ljust(1 << 20) if name == "0000.cls" else data) for name, data in samples(range(20))
    ]
    assert open_dataset(f"tar:{write_shard(tmp_path / '0.tar', members)}").classes == CLASSES


def test_a_shard_may_have_as_many_members_as_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_shard(tmp_path / "0.tar", samples(range(20)))
    monkeypatch.setattr(tar_index, "MAX_MEMBERS", 39)
    assert f"{file} has more than 39 members: cut it into smaller shards" in refusal(file)
    monkeypatch.setattr(tar_index, "MAX_MEMBERS", 40)
    assert len(read_all(open_dataset(f"tar:{file}"))) == 20


def test_an_image_over_the_limit_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image: list[Member] = [("a.png", IMAGE.ljust(1000)), ("a.cls", b"cat")]
    file = write_shard(tmp_path / "0.tar", [*samples(range(20)), *image])
    monkeypatch.setattr(tar_index, "MAX_IMAGE_BYTES", 999)
    assert "a.png has 1,000 bytes, more than the 999 that are read" in refusal(file)
    monkeypatch.setattr(tar_index, "MAX_IMAGE_BYTES", 1000)
    assert len(read_all(open_dataset(f"tar:{file}"))) == 21


COMPRESSED: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstd": lambda data: (
        b"\x28\xb5\x2f\xfd\x00\x58" + data
    ),  # the magic number of RFC 8878, and a frame that is not finished
}


@pytest.mark.parametrize("kind", COMPRESSED)
def test_a_compressed_shard_is_refused_with_its_compression(tmp_path: Path, kind: str) -> None:
    file = write_shard(tmp_path / "0.tar", samples(range(20)))
    file.write_bytes(COMPRESSED[kind](file.read_bytes()))
    reason = f"is compressed with {kind}: images are read at random, so uncompress it first"
    assert refusal(file) == f"{file} {reason}"


@pytest.mark.parametrize("size", [3000, 100])
def test_a_truncated_shard_with_names_like_a_compression_is_truncated(tmp_path: Path, size: int) -> None:
    file = write_shard(tmp_path / "0.tar", [(f"BZhang/{name}", data) for name, data in samples(range(20))])
    file.write_bytes(file.read_bytes()[:size])
    assert "is not a complete tar archive (" in refusal(file)


# Damage


@functools.cache
def small_shard() -> tuple[bytes, list[tarfile.TarInfo], int]:
    """Three samples in a shard: its bytes, its members, and where they end."""
    with tempfile.TemporaryDirectory() as folder:
        file = write_shard(Path(folder) / "0.tar", samples(range(3)), tarfile.USTAR_FORMAT)
        with tarfile.open(file) as archive:
            members = archive.getmembers()
        last = members[-1]
        return file.read_bytes(), members, last.offset_data + BLOCK * -(-last.size // BLOCK)


CUTS: dict[str, Callable[[list[tarfile.TarInfo], int], int]] = {
    "everything": lambda members, end: 0,
    "a byte is left": lambda members, end: 1,
    "inside the first header": lambda members, end: BLOCK - 1,
    "after the first header": lambda members, end: BLOCK,
    "inside an image": lambda members, end: members[2].offset_data + 10,
    "after an image, in its padding": lambda members, end: members[2].offset_data + members[2].size,
    "between members": lambda members, end: members[4].offset,
    "inside a header": lambda members, end: members[3].offset + 100,
    "after a header": lambda members, end: members[3].offset_data,
    "in the padding of the last member": lambda members, end: end - 1,
    "all of the end's mark": lambda members, end: end,
    "half of the end's mark": lambda members, end: end + BLOCK,
    "the last byte of the end's mark": lambda members, end: end + 2 * BLOCK - 1,
}


@pytest.mark.parametrize("place", CUTS)
def test_a_truncated_shard_is_refused_by_name(tmp_path: Path, place: str) -> None:
    content, members, end = small_shard()
    file = tmp_path / "0.tar"
    file.write_bytes(content[: CUTS[place](members, end)])
    text = refusal(file)
    assert text.startswith(f"{file} is not a complete tar archive (")
    assert text.endswith("): write or copy it again")


@given(st.data())
def test_no_truncated_shard_passes_for_whole(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    content, _, end = small_shard()
    file = tmp_path_factory.getbasetemp() / "truncated.tar"
    file.write_bytes(content[: data.draw(st.integers(0, end + 2 * BLOCK - 1))])
    assert refusal(file).startswith(f"{file} is not a complete tar archive (")


def test_padding_after_the_end_of_an_archive_is_optional(tmp_path: Path) -> None:
    shard = write_shard(tmp_path / "padded.tar", samples(range(20)))
    with tarfile.open(shard) as archive:
        last = archive.getmembers()[-1]
    padded = shard.read_bytes()
    (tmp_path / "short.tar").write_bytes(padded[: last.offset_data + 3 * BLOCK])
    assert (tmp_path / "short.tar").stat().st_size < len(padded)
    assert open_dataset(f"tar:{tmp_path}/short.tar").sha256 == open_dataset(f"tar:{shard}").sha256


@given(st.data())
def test_a_changed_byte_in_a_header_is_noticed(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    intact, members, _ = small_shard()
    # the checksum covers all but itself
    place = data.draw(st.integers(0, BLOCK - 1).filter(lambda place: not 148 <= place < 156))
    content = bytearray(intact)
    content[data.draw(st.sampled_from(members)).offset + place] ^= data.draw(st.integers(1, 255))
    file = tmp_path_factory.getbasetemp() / "header.tar"
    file.write_bytes(content)
    assert refusal(file).startswith(f"{file} is not a complete tar archive (")


@functools.cache
def usable_shard() -> bytes:
    """Enough samples to split."""
    with tempfile.TemporaryDirectory() as folder:
        return write_shard(Path(folder) / "0.tar", samples(range(12))).read_bytes()


TIMES = itertools.count(1)


@given(st.data())
def test_damaged_bytes_are_refused_or_lose_no_sample(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    content = bytearray(usable_shard())
    place = data.draw(st.integers(0, len(content) - 8))
    content[place : place + 8] = data.draw(st.binary(min_size=8, max_size=8))
    file = tmp_path_factory.getbasetemp() / "bytes.tar"
    file.write_bytes(content)
    os.utime(file, (0, next(TIMES)))  # a clock may be too coarse to tell two examples apart
    try:
        dataset = open_dataset(f"tar:{file}")
    except UserError as error:
        assert str(file) in str(error)
        assert is_harmless_line(str(error))
    else:
        names = {split.images.name(i) for split in dataset.splits.values() for i in range(len(split))}
        assert names == {f"{file}/{number:04}.png" for number in range(12)}


@pytest.mark.parametrize("filling", [b"\xff", b"x", b"\0\1", b"\0"])
def test_damage_between_members_does_not_end_a_shard(tmp_path: Path, filling: bytes) -> None:
    intact, members, _ = small_shard()
    start = members[2].offset
    content = bytearray(intact)
    content[start : start + BLOCK] = (filling * BLOCK)[:BLOCK]
    file = tmp_path / "0.tar"
    file.write_bytes(content)
    message = f"{file} is not a complete tar archive (no member and no end of the archive at byte {start:,})"
    assert message in refusal(file)


def test_joined_archives_are_refused_and_not_read_in_half(tmp_path: Path) -> None:
    first = write_shard(tmp_path / "a", samples(range(20)))
    second = write_shard(tmp_path / "b", samples(range(20, 40)))
    (tmp_path / "0.tar").write_bytes(first.read_bytes() + second.read_bytes())
    text = refusal(tmp_path / "0.tar")
    assert "is not a complete tar archive (data after its end at byte " in text


@pytest.mark.parametrize("member", [0, 1, 30])
def test_a_hole_of_zeros_does_not_end_a_shard(tmp_path: Path, member: int) -> None:
    file = write_shard(tmp_path / "0.tar", samples(range(20)))
    with tarfile.open(file) as archive:
        start = archive.getmembers()[member].offset
    content = file.read_bytes()
    file.write_bytes(content[:start] + bytes(4 * BLOCK) + content[start + 4 * BLOCK :])
    assert "is not a complete tar archive (" in refusal(file)


@pytest.mark.parametrize("size", [0, 1, BLOCK, (2 << 20) + 1])
def test_zeros_after_the_end_of_an_archive_are_padding(tmp_path: Path, size: int) -> None:
    shard = write_shard(tmp_path / "0.tar", samples(range(20)))
    (tmp_path / "padded.tar").write_bytes(shard.read_bytes() + bytes(size))
    assert open_dataset(f"tar:{tmp_path}/padded.tar").sha256 == open_dataset(f"tar:{shard}").sha256
    (tmp_path / "changed.tar").write_bytes(shard.read_bytes() + bytes(size) + b"x")
    assert "is not a complete tar archive (data after its end" in refusal(tmp_path / "changed.tar")


@pytest.mark.parametrize("size", [0, 1, BLOCK, 10 * BLOCK])
def test_a_size_that_ends_inside_another_member_is_refused(tmp_path: Path, size: int) -> None:
    file = write_shard(
        tmp_path / "0.tar", [("0.bin", RNG.bytes(5 * BLOCK)), *samples(range(20))], tarfile.USTAR_FORMAT
    )
    content = file.read_bytes()
    with tarfile.open(file) as archive:
        info = archive.getmembers()[0]
    info.size = size
    file.write_bytes(info.tobuf(tarfile.USTAR_FORMAT) + content[BLOCK:])
    assert "is not a complete tar archive (no member and no end of the archive at byte" in refusal(file)


@pytest.mark.parametrize("content", [b"", b"\0", b"text that is no archive\n" * 100, bytes(100), IMAGE])
def test_a_file_that_is_no_archive_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "0.tar"
    file.write_bytes(content)
    assert refusal(file).startswith(f"{file} is not a complete tar archive (")


# Patterns


def shards_in(folder: Path, *names: str, classes: Sequence[str] = CLASSES) -> str:
    for name in names:
        write_shard(folder / f"{name}.tar", samples(range(20), classes))
    return f"{folder}/*.tar"


def with_classes(folder: Path, text: str, classes: Sequence[str] = ("0", "2")) -> str:
    pattern = shards_in(folder, "0", classes=classes)
    (folder / "classes.txt").write_text(text)
    return pattern


EXPECTED = "expected the path of tar files, such as"
PATTERNS: dict[str, tuple[Callable[[Path], str], str]] = {
    "no such file": (
        lambda folder: f"{folder}/0.tar",
        f"{{folder}}/0.tar matches no shard: {EXPECTED} shards/train-{{{{000..012}}}}.tar",
    ),
    "nothing matches": (lambda folder: f"{folder}/*.tar", "{folder}/*.tar matches no shard: "),
    "one of a range is missing": (
        lambda folder: shards_in(folder, "a0", "a2") and f"{folder}/a{{0..2}}.tar",
        "{folder}/a1.tar matches no shard: ",
    ),
    "no path can be so": (lambda folder: f"{folder}/\0.tar", "{folder}/\\x00.tar matches no shard: "),
    "a folder": (lambda folder: str(folder), f"{{folder}} is not a file: {EXPECTED} {{folder}}/*.tar"),
    "a folder among files": (
        lambda folder: shards_in(folder, "0", "1.tar/inner").replace("*.tar", "*"),
        "{folder}/1.tar is not a file: ",
    ),
    "a falling range": (
        lambda folder: f"{folder}/{{3..1}}.tar",
        "{{3..1}} stands for 0 shards: expected a range that rises, of at most 100,000",
    ),
    "a range that is too large": (
        lambda folder: "{000000..100000}.tar",
        "{{000000..100000}} stands for 100,001 shards: expected a range",
    ),
    "ranges that are too large together": (
        lambda folder: "{000..400}-{000..300}.tar",
        "{{000..400}}-{{000..300}}.tar stands for more than 100,000 shards",
    ),
    "many braces": (lambda folder: "{a,b}" * 50, " stands for more than 100,000 shards"),
    "several splits": (
        lambda folder: shards_in(folder, "train-val-0"),
        "{folder}/train-val-0.tar is named after several splits, train and val: rename it after one of them",
    ),
    "splits that contradict": (
        lambda folder: (
            shards_in(folder / "train", "testing") and shards_in(folder, "a/0").replace("*.tar", "*/*.tar")
        ),
        "{folder}/train/testing.tar is named after several splits, test and train: ",
    ),
    "some without a split": (
        lambda folder: shards_in(folder, "extra", "train", "val"),
        "{folder}/extra.tar is named after no split, and other shards are: name all after train, ",
    ),
    "no members": (
        lambda folder: str(write_shard(folder / "0.tar", [])),
        "{folder}/0.tar holds no images: expected members such as key.jpg and key.cls",
    ),
    "labels alone": (
        lambda folder: str(write_shard(folder / "0.tar", [("0.cls", b"cat"), ("1.cls", b"dog")])),
        "holds no images",
    ),
    "other files alone": (
        lambda folder: str(write_shard(folder / "0.tar", [("a/0.wav", b""), ("b/0", b"")])),
        "holds no images",
    ),
    "classes.txt is too large": (
        lambda folder: with_classes(folder, "a\n" * (1 << 19) + "b"),
        "{folder}/classes.txt is too large for a list of classes: expected one name a line",
    ),
    "classes.txt is too short": (
        lambda folder: with_classes(folder, "cat\ndog\n"),
        "{folder}/classes.txt names no class 2, which the shards hold: expected one name a line, from 0",
    ),
    "classes.txt is empty": (
        lambda folder: with_classes(folder, ""),
        "{folder}/classes.txt names no class 0, ",
    ),
    "classes.txt has an empty line": (
        lambda folder: with_classes(folder, "cat\ndog\n \nowl"),
        "classes.txt names no class 2, ",
    ),
    "classes.txt has a name that is too long": (
        lambda folder: with_classes(folder, f"cat\ndog\n{'x' * 1001}"),
        f"{{folder}}/classes.txt, line 3 has the label '{'x' * 40}...': expected a class's name or number",
    ),
    "classes.txt has a zero in a name": (
        lambda folder: with_classes(folder, "c\0t\ndog\nowl"),
        "{folder}/classes.txt, line 1 has the label 'c\\x00t': expected a class's name or number",
    ),
    "one class in two ways of writing": (
        lambda folder: with_classes(folder, "\n".join("abcdefgh"), ("7", "07")),
        "the shards beside {folder}/classes.txt write the class 7 as 07 and as 7: write it in one way",
    ),
    "a negative class": (
        lambda folder: with_classes(folder, "cat\ndog", ("-1", "0")),
        "classes.txt names no class -1, ",
    ),
    "classes.txt repeats a name": (
        lambda folder: with_classes(folder, "cat\ndog\n cat "),
        "{folder}/classes.txt names the class 'cat' twice, for the indices 0 and 2: each class needs its own",
    ),
}


@pytest.mark.parametrize("case", PATTERNS)
def test_a_pattern_that_cannot_be_used_is_refused_with_advice(tmp_path: Path, case: str) -> None:
    make, message = PATTERNS[case]
    assert message.format(folder=tmp_path) in refusal(make(tmp_path))


def test_braces_and_wildcards_name_shards(tmp_path: Path) -> None:
    for split_name, count in (("train", 12), ("val", 3), ("test", 2)):
        for number in range(count):
            write_shard(tmp_path / split_name / f"{number:03}.tar", samples((2 * number, 2 * number + 1)))
    sizes = {
        "{train,val,test}/{000..001}.tar": {"train": 4, "val": 4, "test": 4},
        "{train/01*,val/*,test/000}.tar": {"train": 4, "val": 6, "test": 2},
        "*/*.tar": {"train": 24, "val": 6, "test": 4},
        "{*,train}/00[0-1].tar": {"train": 4, "val": 4, "test": 4},  # those named twice are read once
    }
    for pattern, expected in sizes.items():
        dataset = open_dataset(f"tar:{tmp_path}/{pattern}")
        assert {split_name: len(split) for split_name, split in dataset.splits.items()} == expected


def test_a_pattern_starts_in_the_home_folder_or_the_current_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard = write_shard(tmp_path / "shards" / "0.tar", samples(range(20)))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for pattern in ("~/shards/*.tar", "shards/{0..0}.tar", "./shards/../shards/0.tar"):
        assert read_all(open_dataset(f"tar:{pattern}")) == written(shard)


@pytest.mark.parametrize(
    "name", ["a[0].tar", "a*.tar", "a?.tar", "a{b}.tar", "a{b.tar", "a b.tar", "a:b.tar"]
)
def test_a_file_that_has_a_patterns_name_is_read(tmp_path: Path, name: str) -> None:
    shard = write_shard(tmp_path / name, samples(range(20)))
    write_shard(tmp_path / "ab.tar", [("../what would match.png", IMAGE)])
    assert read_all(open_dataset(f"tar:{shard}")) == written(shard)


# Shards that change, and the cached index


def rewrite(file: Path, members: Iterable[Member]) -> None:
    """Write a shard again, a second later."""
    before = file.stat().st_mtime_ns
    write_shard(file, members)
    os.utime(file, ns=(before + 10**9, before + 10**9))


CHANGES: dict[str, Callable[[Path], object]] = {
    "rewritten": lambda file: rewrite(file, samples(range(20))),
    "replaced": lambda file: write_shard(file.with_name("new"), samples(range(30))).replace(file),
    "longer, in the same moment": lambda file: lengthen(file),
    "truncated": lambda file: os.truncate(file, 1000),
    "empty": lambda file: file.write_bytes(b""),
    "touched": lambda file: os.utime(file, (1, 1)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_shard_that_changes_while_in_use_is_named(tmp_path: Path, change: str) -> None:
    files = {
        split_name: write_shard(tmp_path / f"{split_name}.tar", samples(range(20)))
        for split_name in ("train", "val", "test")
    }
    dataset = open_dataset(f"tar:{tmp_path}/*.tar")
    before = read(dataset, "val")
    read(dataset, "train")
    CHANGES[change](files["train"])
    for i in range(20):
        with pytest.raises(UserError) as caught:
            dataset.splits["train"].images.image(i)
        assert str(caught.value) == f"{files['train']} was changed while it is in use: start again"
        assert not isinstance(caught.value, UnreadableImage)  # a training would only leave the image out
    assert read(dataset, "val") == before


@pytest.mark.parametrize("kind", ["gone", "a folder"])
def test_a_shard_that_is_gone_while_in_use_is_named(tmp_path: Path, kind: str) -> None:
    file = write_shard(tmp_path / "0.tar", samples(range(20)))
    images = open_dataset(f"tar:{file}").splits["train"].images
    file.unlink()
    if kind == "a folder":
        file.mkdir()
    with pytest.raises(UserError, match=rf"^{file} cannot be read any more \(.*\): put it back") as caught:
        images.image(0)
    assert not isinstance(caught.value, UnreadableImage)


@pytest.fixture
def indexed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """The names of shards that are read through, in order, from now on; the cache is the test's own."""
    names: list[str] = []
    plain = tarfile.open

    def recorded(*args: Any, **options: Any) -> tarfile.TarFile:
        archive = plain(*args, **options)
        names.append(Path(os.fsdecode(archive.name or "")).name)
        return archive

    monkeypatch.setenv("CONVATLAS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(tarfile, "open", recorded)
    return names


def fill(folder: Path) -> str:
    for number in range(3):
        write_shard(folder / f"{number}.tar", samples(range(20)))
    return f"tar:{folder}/*.tar"


def test_a_second_opening_does_not_read_the_shards_again(tmp_path: Path, indexed: list[str]) -> None:
    name = fill(tmp_path)
    indexed.clear()
    before = open_dataset(name)
    assert indexed == ["0.tar", "1.tar", "2.tar"]
    after = open_dataset(name)
    assert indexed == ["0.tar", "1.tar", "2.tar"]
    assert after.sha256 == before.sha256
    assert read_all(after) == read_all(before)


def test_only_the_shard_that_changed_is_read_again(tmp_path: Path, indexed: list[str]) -> None:
    name = fill(tmp_path)
    before = open_dataset(name)
    rewrite(tmp_path / "1.tar", samples(range(14)))
    indexed.clear()
    after = open_dataset(name)
    assert indexed == ["1.tar"]
    assert after.sha256 != before.sha256
    assert read_all(after) == written(*(tmp_path / f"{number}.tar" for number in range(3)))


def test_a_refused_shard_is_read_again_once_it_is_replaced(tmp_path: Path, indexed: list[str]) -> None:
    file = write_shard(tmp_path / "0.tar", [*samples(range(20)), ("../a.png", IMAGE)])
    for _ in range(2):  # what was refused is refused again
        assert "leads out of the archive" in refusal(file)
    rewrite(file, samples(range(20)))
    assert read_all(open_dataset(f"tar:{file}")) == written(file)


@pytest.mark.parametrize("damage", [b"", b"damage", None])
def test_a_damaged_cache_is_replaced(tmp_path: Path, indexed: list[str], damage: bytes | None) -> None:
    name = fill(tmp_path)
    before = open_dataset(name).sha256
    notes = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert len(notes) == 3
    for note in notes:
        content = note.read_bytes()
        note.write_bytes(content[:-1] + bytes([content[-1] ^ 1]) if damage is None else damage)
    indexed.clear()
    assert open_dataset(name).sha256 == before
    assert indexed == ["0.tar", "1.tar", "2.tar"]
    assert open_dataset(name).sha256 == before
    assert len(indexed) == 3


def test_without_a_cache_shards_are_read_every_time(tmp_path: Path, indexed: list[str]) -> None:
    name = fill(tmp_path)
    (tmp_path / "cache").write_text("a file where the folder should be")
    indexed.clear()
    assert open_dataset(name).sha256 == open_dataset(name).sha256
    assert len(indexed) == 6
