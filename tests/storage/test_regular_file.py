"""Files that a user names: regular ones are opened, and nothing that waits or never ends."""

import os
from pathlib import Path

import pytest

from convatlas.errors import UsageError, UserError
from convatlas.storage.regular_file import open_regular_file, read_regular_file


def test_a_file_and_a_link_to_one_are_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to("file")
    assert read_regular_file(tmp_path / "file") == b"content"
    with open_regular_file(tmp_path / "link") as stream:
        assert stream.read() == b"content"


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
    with pytest.raises(UserError, match=rf"^cannot read .* \({reason}\): expected a file$"):
        open_regular_file(tmp_path / name)


def test_the_error_is_the_callers_kind_and_says_what_it_expects(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r": expected a run\.json$"):
        read_regular_file(tmp_path / "nothing", UsageError, "expected a run.json")
