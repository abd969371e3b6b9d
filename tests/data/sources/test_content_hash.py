"""Hashes of files, and the cases in which a cached hash is used."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from convatlas.data import open_dataset
from convatlas.data.sources.content_hash import content_hash, hash_files

CONTENTS = {"a.png": b"first", "b.png": b"second", "deep/c.png": b"third"}
NAMES = list(CONTENTS)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of an empty cache."""
    monkeypatch.setenv("CONVATLAS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def root(tmp_path: Path, cache: Path) -> Path:
    """A folder with the files of CONTENTS, none of them hashed yet."""
    for name, data in CONTENTS.items():
        write(tmp_path / "root" / name, data)
    return tmp_path / "root"


def write(file: Path, data: bytes | bytearray, modified: int = 1) -> None:
    """A file with its time of change in seconds: a clock's ticks may be longer than a test."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)
    os.utime(file, (modified, modified))


def replace_unnoticed(root: Path) -> None:
    """Give every file other bytes, but the size and time of change that it had."""
    for name, data in CONTENTS.items():
        write(root / name, data[::-1])


def cache_file(cache: Path) -> Path:
    (file,) = (file for file in cache.rglob("*") if file.is_file())
    return file


def expected(contents: dict[str, bytes]) -> list[bytes]:
    return [hashlib.sha256(data).digest()[:16] for data in contents.values()]


# ---- content


@given(st.binary(max_size=300))
def test_a_hash_is_the_start_of_sha256(data: bytes) -> None:
    assert content_hash(data) == hashlib.sha256(data).digest()[:16]


@pytest.mark.parametrize("size", [0, 1, 65_536, 1 << 20, 3_000_001])
def test_a_files_hash_is_that_of_its_bytes(tmp_path: Path, size: int) -> None:
    data = np.random.default_rng(size).bytes(size)
    write(tmp_path / "a.png", data)
    assert hash_files(tmp_path, ["a.png"]) == [content_hash(data)]


@pytest.mark.parametrize("at", [0, 1 << 19, -1])
def test_hashes_differ_exactly_if_the_bytes_differ(tmp_path: Path, at: int) -> None:
    data = bytearray(np.random.default_rng(0).bytes(1 << 20))
    write(tmp_path / "a.png", data)
    write(tmp_path / "b.jpg", data, modified=2)
    data[at] ^= 1
    write(tmp_path / "c.png", data)
    first, copy, changed = hash_files(tmp_path, ["a.png", "b.jpg", "c.png"])
    assert first == copy
    assert first != changed


def test_hashes_come_in_the_order_of_the_names(root: Path) -> None:
    hash_files(root, NAMES[1:2])
    assert hash_files(root, NAMES[::-1]) == expected(CONTENTS)[::-1]
    assert hash_files(root, [*NAMES, NAMES[0]]) == expected(CONTENTS) + expected(CONTENTS)[:1]


def test_many_files_are_hashed_in_order(root: Path) -> None:
    contents = {f"{i}.png": b"image %d" % i for i in range(503)}
    for name, data in contents.items():
        write(root / name, data)
    assert hash_files(root, list(contents)) == expected(contents)


def test_no_files_have_no_hashes(root: Path, cache: Path) -> None:
    assert hash_files(root, []) == []
    assert not cache.exists()


def test_files_that_cannot_be_read_are_hashed_by_name(root: Path) -> None:
    (root / "folder.png").mkdir()
    (root / "link.png").symlink_to(root / "nowhere.png")
    names = ["folder.png", "link.png", "gone.png", "gone too.png", NAMES[0]]
    hashes = hash_files(root, names)
    assert len(set(hashes)) == len(names)
    assert all(len(digest) == 16 for digest in hashes)
    assert hash_files(root, names) == hashes


def test_files_whose_names_are_not_utf8_are_hashed_once(root: Path) -> None:
    names = [os.fsdecode(b"\xff.png"), os.fsdecode(b"\xfe.png")]
    for name in names:
        write(root / name, os.fsencode(name))
    hashes = hash_files(root, names)
    assert hashes == [content_hash(b"\xff.png"), content_hash(b"\xfe.png")]
    for name in names:
        write(root / name, b"other")
    assert hash_files(root, names) == hashes


def test_the_hash_of_an_unreadable_file_is_not_cached(root: Path) -> None:
    file = root / "d.png"
    file.mkdir()
    os.utime(file, (1, 1))
    size = file.stat().st_size
    before = hash_files(root, [*NAMES, "d.png"])
    file.rmdir()
    write(file, bytes(size))
    after = hash_files(root, [*NAMES, "d.png"])
    assert before[:-1] == after[:-1]
    assert after[-1] == content_hash(bytes(size)) != before[-1]


@pytest.mark.parametrize(("data", "modified"), [(b"first", 1), (b"", 0)])
def test_a_file_that_comes_back_is_read(root: Path, data: bytes, modified: int) -> None:
    contents = {**CONTENTS, "a.png": data}
    (root / "a.png").unlink()
    assert hash_files(root, NAMES) != expected(contents)
    write(root / "a.png", data, modified)
    assert hash_files(root, NAMES) == expected(contents)


# ---- cache


def test_unchanged_files_are_not_read_again(root: Path) -> None:
    hash_files(root, NAMES)
    replace_unnoticed(root)
    assert hash_files(root, NAMES) == expected(CONTENTS)


@pytest.mark.parametrize(
    "change",
    [
        lambda file: write(file, b"FIRST", modified=2),
        lambda file: write(file, b"FIRST", modified=0),
        lambda file: write(file, b"longer"),
        lambda file: write(file, b""),
        lambda file: os.utime(file, ns=(10**9, 10**9 + 1)),
    ],
    ids=["later", "earlier", "longer", "empty", "a nanosecond later"],
)
def test_a_changed_file_is_read_again_and_only_it(root: Path, change: Callable[[Path], object]) -> None:
    hash_files(root, NAMES)
    replace_unnoticed(root)
    change(root / "a.png")
    contents = {**CONTENTS, "a.png": (root / "a.png").read_bytes()}
    assert hash_files(root, NAMES) == expected(contents)
    replace_unnoticed(root)
    assert hash_files(root, NAMES[1:]) == expected(CONTENTS)[1:]


def test_a_removed_file_is_not_taken_from_the_cache(root: Path) -> None:
    before = hash_files(root, NAMES)
    (root / "a.png").unlink()
    after = hash_files(root, NAMES)
    assert after[0] != before[0]
    assert after[1:] == before[1:]


def test_files_that_are_added_leave_the_cached_hashes(root: Path) -> None:
    hash_files(root, NAMES[:1])
    hash_files(root, NAMES[1:])
    replace_unnoticed(root)
    write(root / "new.png", b"new")
    assert hash_files(root, [*NAMES, "new.png"]) == expected({**CONTENTS, "new.png": b"new"})


def test_hashes_are_cached_for_a_folder_under_any_path(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hash_files(root, NAMES)
    replace_unnoticed(root)
    monkeypatch.chdir(root / "deep")
    (root.parent / "link").symlink_to(root)
    assert hash_files(Path(".."), NAMES) == expected(CONTENTS)
    assert hash_files(root.parent / "link", NAMES) == expected(CONTENTS)


def test_files_with_one_name_in_two_folders_are_not_mixed_up(root: Path) -> None:
    hash_files(root, NAMES)
    contents = {name: data[::-1] for name, data in CONTENTS.items()}
    for name, data in contents.items():
        write(root.parent / "other" / name, data)
    assert hash_files(root.parent / "other", NAMES) == expected(contents)
    assert hash_files(root, NAMES) == expected(CONTENTS)


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "first half": lambda data: data[: len(data) // 2],
    "last byte lost": lambda data: data[:-1],
    "bytes after the end": lambda data: data + data[:3],
    "text": lambda data: b"hash" * 30,
    "zeros": lambda data: bytes(len(data)),
    "noise": lambda data: np.random.default_rng(0).bytes(len(data)),
    "a list": lambda data: msgspec.msgpack.encode([1, 2, 3]),
    "names without hashes": lambda data: msgspec.msgpack.encode(dict.fromkeys(NAMES)),
    "empty hashes": lambda data: msgspec.msgpack.encode(
        {name: (len(CONTENTS[name]), 10**9, b"") for name in NAMES}
    ),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_cache_is_not_trusted_and_is_replaced(root: Path, cache: Path, kind: str) -> None:
    hash_files(root, NAMES)
    file = cache_file(cache)
    file.write_bytes(DAMAGE[kind](file.read_bytes()))
    replace_unnoticed(root)
    contents = {name: data[::-1] for name, data in CONTENTS.items()}
    assert hash_files(root, NAMES) == expected(contents)
    for name, data in CONTENTS.items():
        write(root / name, data)
    assert hash_files(root, NAMES) == expected(contents)


def test_a_cache_that_is_cut_anywhere_is_not_trusted(root: Path, cache: Path) -> None:
    hash_files(root, NAMES)
    file = cache_file(cache)
    data = file.read_bytes()
    replace_unnoticed(root)
    contents = {name: data[::-1] for name, data in CONTENTS.items()}
    for length in range(0, len(data), 3):
        file.write_bytes(data[:length])
        assert hash_files(root, NAMES) == expected(contents)


def test_a_cache_with_a_changed_byte_is_not_trusted(root: Path, cache: Path) -> None:
    hash_files(root, NAMES)
    file = cache_file(cache)
    data = file.read_bytes()
    replace_unnoticed(root)
    contents = {name: data[::-1] for name, data in CONTENTS.items()}
    for place in range(0, len(data), 3):
        file.write_bytes(data[:place] + bytes([data[place] ^ 0x80]) + data[place + 1 :])
        assert hash_files(root, NAMES) == expected(contents)


def test_a_cache_that_cannot_be_written_is_not_needed(root: Path, cache: Path) -> None:
    cache.write_text("a file where the folder should be")
    for _ in range(2):
        assert hash_files(root, NAMES) == expected(CONTENTS)
    assert cache.read_text() == "a file where the folder should be"


def test_nothing_is_written_beside_the_data(root: Path) -> None:
    before = sorted(root.rglob("*"))
    hash_files(root, NAMES)
    assert sorted(root.rglob("*")) == before


# ---- in a data set


def test_a_data_set_is_read_once_until_a_file_of_it_changes(tmp_path: Path, cache: Path) -> None:
    for i in range(20):
        file = tmp_path / "photos" / ("cat", "dog")[i % 2] / f"{i}.bmp"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 5), (i, 0, 0)).save(file)
        os.utime(file, (1, 1))
    name, file = f"folder:{tmp_path / 'photos'}", tmp_path / "photos" / "cat" / "0.bmp"
    first = open_dataset(name)
    assert content_hash(file.read_bytes()) in {
        key for split in first.splits.values() for key in split.content_hashes
    }
    Image.new("RGB", (4, 5), (0, 99, 0)).save(file)
    os.utime(file, (1, 1))
    assert open_dataset(name).sha256 == first.sha256
    os.utime(file, (2, 2))
    changed = open_dataset(name)
    assert changed.sha256 != first.sha256
    assert content_hash(file.read_bytes()) in {
        key for split in changed.splits.values() for key in split.content_hashes
    }


def test_a_data_set_with_file_names_that_are_not_utf8_opens(tmp_path: Path, cache: Path) -> None:
    for i in range(20):
        file = tmp_path / "photos" / ("cat", "dog")[i % 2] / os.fsdecode(b"\xff%d.bmp" % i)
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 5), (i, 0, 0)).save(file, "BMP")
    assert len(open_dataset(f"folder:{tmp_path / 'photos'}").splits["train"]) == 16
