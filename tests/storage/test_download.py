"""A download is complete and checked, or continues where it stopped; nothing wrong is kept."""

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from helpers.file_server import FileServer, serve

from convatlas.errors import UserError
from convatlas.storage.download import CHUNK_BYTES, download_file

CONTENT = bytes(range(256)) * 10_000  # more than two chunks


@pytest.fixture
def server() -> Iterator[FileServer]:
    with serve() as server:
        server.files["/a.bin"] = CONTENT
        yield server


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def check(file: Path) -> str:
    is_right = hashlib.sha256(file.read_bytes()).digest() == hashlib.sha256(CONTENT).digest()
    return "" if is_right else "has another content"


def untracked(steps: Iterator[None], total: int, description: str) -> Iterable[None]:
    return steps


def fetch(server: FileServer, path: Path) -> None:
    download_file(f"{server.url}/a.bin", path, check, untracked)


def test_a_file_is_fetched_once(server: FileServer, tmp_path: Path) -> None:
    for _ in range(2):
        fetch(server, tmp_path / "new" / "a.bin")
    assert (tmp_path / "new" / "a.bin").read_bytes() == CONTENT
    assert server.requests == ["GET /a.bin"]


def test_a_link_in_place_of_the_part_is_not_written_through(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "precious").write_bytes(b"1")
    (tmp_path / ".a.bin.part").symlink_to(tmp_path / "precious")
    with pytest.raises(UserError, match="is a link, and is not written through"):
        fetch(server, tmp_path / "a.bin")
    assert (tmp_path / "precious").read_bytes() == b"1"


def test_progress_counts_chunks(server: FileServer, tmp_path: Path) -> None:
    totals = []

    def track(steps: Iterator[None], total: int, description: str) -> Iterable[None]:
        totals.append((total, len(list(steps)), description))
        return ()

    download_file(f"{server.url}/a.bin", tmp_path / "a.bin", check, track)
    num_chunks = -(-len(CONTENT) // CHUNK_BYTES)
    assert totals == [(num_chunks, num_chunks, "fetching a.bin, MiB")]


@pytest.mark.parametrize("cut_after", [1, 1_000_000, len(CONTENT) - 1])
def test_a_download_that_was_cut_off_continues_there(
    cut_after: int, server: FileServer, tmp_path: Path
) -> None:
    server.cut_after = cut_after
    with pytest.raises(UserError, match=rf"{cut_after:,} bytes have arrived: try again to continue") as error:
        fetch(server, tmp_path / "a.bin")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "a.bin").exists()
    fetch(server, tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert server.requests == ["GET /a.bin", f"GET /a.bin bytes={cut_after}-"]


def test_a_server_that_takes_no_ranges_sends_the_file_again(server: FileServer, tmp_path: Path) -> None:
    server.cut_after = 1_000
    server.takes_ranges = False
    with pytest.raises(UserError):
        fetch(server, tmp_path / "a.bin")
    fetch(server, tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


@pytest.mark.parametrize("rest", [CONTENT, CONTENT + b"more"])
def test_a_part_that_is_complete_or_too_long_does_no_harm(
    rest: bytes, server: FileServer, tmp_path: Path
) -> None:
    (tmp_path / ".a.bin.part").write_bytes(rest)
    fetch(server, tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


def test_a_wrong_content_is_refused_and_not_kept(server: FileServer, tmp_path: Path) -> None:
    server.files["/a.bin"] = b"something else"
    with pytest.raises(UserError, match=r"a.bin has another content: nothing was kept"):
        fetch(server, tmp_path / "a.bin")
    assert [file.name for file in tmp_path.iterdir()] == [".lock"]
    server.files["/a.bin"] = CONTENT
    fetch(server, tmp_path / "a.bin")


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:9/a.bin", "http://no-such-host.invalid/a.bin", "file:///etc/passwd", "a.bin"]
)
def test_an_address_that_cannot_be_reached_is_one_sentence(url: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot fetch") as error:
        download_file(url, tmp_path / "a.bin", check, untracked)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "a.bin").exists()


def test_a_missing_file_is_one_sentence(server: FileServer, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot fetch .*/b.bin \(HTTP Error 404"):
        download_file(f"{server.url}/b.bin", tmp_path / "b.bin", check, untracked)
