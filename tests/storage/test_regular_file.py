"""Readers of files that users name never wait for a pipe, and writers never write through a link."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from convatlas.errors import UsageError, UserError
from convatlas.storage.atomic import AppendOnlyFile, atomic_output, atomic_write
from convatlas.storage.lock import folder_lock
from convatlas.storage.regular_file import (
    check_no_links,
    open_regular,
    open_user_file,
    read_regular,
    read_user_file,
)


def test_a_file_and_a_link_to_one_are_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to("file")
    for name in ("file", "link"):
        for open_file in (open_regular, open_user_file):
            with open_file(tmp_path / name) as stream:
                assert stream.read() == b"content"
                assert stream.name == str(tmp_path / name)
        assert read_regular(tmp_path / name) == read_user_file(tmp_path / name) == b"content"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("pipe", "it is a named pipe"),
        ("folder", "it is a folder"),
        ("nothing", "No such file or directory"),
        ("zero\0byte", "no file can have this name"),
        ("/dev/zero", "it is a device"),
    ],
)
def test_anything_else_is_refused_at_once(name: str, reason: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match=reason):
        open_regular(tmp_path / name)
    with pytest.raises(UserError, match=rf"^cannot read .* \({reason}\): expected a file$"):
        open_user_file(tmp_path / name)


def test_a_folder_has_an_error_of_its_own(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError):
        read_regular(tmp_path)


def test_the_error_is_the_callers_kind_and_says_what_it_expects(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r": expected a run\.json$"):
        read_user_file(tmp_path / "nothing", UsageError, "expected a run.json")


def append(path: Path) -> None:
    AppendOnlyFile(path).close()


def lock(path: Path) -> None:
    with folder_lock(path.parent):
        pass


@pytest.mark.parametrize(("name", "write"), [("lines", append), (".lock", lock)])
def test_a_file_that_is_written_in_place_is_not_written_through_a_link(
    tmp_path: Path, name: str, write: Callable[[Path], None]
) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"torn last line")
    link = tmp_path / "folder" / name
    link.parent.mkdir()
    link.symlink_to(victim)
    with pytest.raises(OSError, match="is a link, and is not written through"):
        write(link)
    link.unlink()
    os.mkfifo(link)
    with pytest.raises(OSError, match="it is a named pipe"):
        write(link)
    assert victim.read_bytes() == b"torn last line"


def test_a_replaced_file_replaces_a_link_and_not_its_target(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    for name in ("file", f".file.{os.getpid()}.tmp"):  # where the temporary file would be, too
        (tmp_path / name).symlink_to(victim)
    atomic_write(tmp_path / "file", b"new")
    assert not (tmp_path / "file").is_symlink()
    assert (tmp_path / "file").read_bytes() == b"new"
    assert victim.read_bytes() == b"precious"


def test_a_library_does_not_write_into_a_link_in_place_of_its_folder(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "precious").write_bytes(b"1")
    (tmp_path / f".out.{os.getpid()}.tmp").symlink_to(tmp_path / "elsewhere")
    with atomic_output(tmp_path / "out") as path:
        path.write_bytes(b"new")
    assert [file.name for file in (tmp_path / "elsewhere").iterdir()] == ["precious"]


@pytest.mark.parametrize("name", ["metrics.jsonl", "checkpoints", "predictions/test.safetensors"])
def test_a_folder_with_a_link_is_not_written(tmp_path: Path, name: str) -> None:
    link = tmp_path / "run" / name
    link.parent.mkdir(parents=True)
    check_no_links(tmp_path / "run")
    link.symlink_to(tmp_path)
    with pytest.raises(UsageError, match=f"run/{name} is a link, and .* should hold files and folders alone"):
        check_no_links(tmp_path / "run")
