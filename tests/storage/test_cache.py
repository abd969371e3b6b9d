"""The user's cache only saves time: damaged, it is computed again; full or read-only, it is done without."""

import os
import shutil
import time
from pathlib import Path

import pytest

from convatlas.storage import cache
from convatlas.storage.lock import hold, try_lock

HOUR = 3600


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CONVATLAS_CACHE", str(tmp_path))
    cache._warn_once.cache_clear()
    return tmp_path


def test_an_entry_with_any_flipped_bit_is_none(folder: Path) -> None:
    value = {b"name": (1, 2, b"digest")}
    type_ = dict[bytes, tuple[int, int, bytes]]
    cache.write_entry("kind", "name", value)
    assert cache.read_entry("kind", "name", type_) == value
    (file,) = (folder / "kind").iterdir()
    data = file.read_bytes()
    for bit in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        file.write_bytes(damaged)
        assert cache.read_entry("kind", "name", type_) is None


def write_graph(folder: Path) -> None:
    (folder / "graph.bin").write_bytes(b"weights")


def test_a_folder_with_any_flipped_bit_is_made_again(folder: Path) -> None:
    made = cache.cached_folder("engines", "key", write_graph)
    assert made == folder / "engines" / "key"
    for file in sorted(made.iterdir()):
        data = file.read_bytes()
        for bit in range(0, 8 * len(data), 7):
            damaged = bytearray(data)
            damaged[bit // 8] ^= 1 << bit % 8
            file.write_bytes(damaged)
            assert not cache._is_complete(made) or file.read_bytes() == data
        assert cache.cached_folder("engines", "key", write_graph) == made
        assert file.read_bytes() == data


def test_a_cache_that_cannot_be_written_is_done_without_and_said_once(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(folder)
    folder.write_text("a file in place of the cache")
    for _ in range(2):
        cache.write_entry("kind", "name", 1)
        assert cache.cached_folder("engines", "key", write_graph) is None
    error = capsys.readouterr().err
    assert error.count(f"the cache in {folder} cannot be written (Not a directory)") == 1


def test_a_link_in_the_cache_is_not_written_through(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "precious").write_bytes(b"1")
    (folder / "kind").symlink_to(elsewhere)
    cache.write_entry("kind", "name", 1)
    (folder / "engines").mkdir()
    (folder / "engines" / "key").symlink_to(elsewhere)
    cache.remove_cached_folder("engines", "key")
    assert cache.cached_folder("engines", "key", write_graph) == folder / "engines" / "key"
    assert [file.name for file in elsewhere.iterdir()] == ["precious"]


def test_what_killed_processes_have_left_is_removed_and_what_others_write_is_kept(folder: Path) -> None:
    engines = folder / "engines"
    old = time.time() - 2 * HOUR
    for name in (".dead.1.tmp", ".alive.2.tmp", ".young.3.tmp"):
        (engines / name).mkdir(parents=True)
        (engines / name / "graph.bin").write_bytes(b"half")
    for name in (".dead.msgpack.1.tmp", ".young.msgpack.2.tmp"):
        (engines / name).write_bytes(b"half")
    for name in (".dead.1.tmp", ".alive.2.tmp", ".dead.msgpack.1.tmp"):
        os.utime(engines / name, (old, old))
    with hold(os.open(engines / ".alive.2.tmp", os.O_RDONLY)) as file:
        try_lock(file)
        cache.cached_folder("engines", "key", write_graph)
    names = {entry.name for entry in engines.iterdir()}
    assert names == {".alive.2.tmp", ".young.3.tmp", ".young.msgpack.2.tmp", "key"}
