import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.crash_disk import RecordingDisk

from convatlas.storage.atomic import AppendOnlyFile, FileOps, atomic_write


class FailingDisk(FileOps):
    """Fails at the n-th call, as a full or broken disk does."""

    def __init__(self, failing_call: int):
        self.calls_left = failing_call

    def __getattribute__(self, name: str) -> Any:
        attribute = super().__getattribute__(name)
        if name in ("open_new", "write", "fsync", "rename"):
            self.calls_left -= 1
            if self.calls_left == 0:
                raise OSError(errno.ENOSPC, "No space left on device")
        return attribute


def test_a_replaced_file_is_completely_old_or_new_after_a_crash_at_any_point(tmp_path: Path) -> None:
    disk = RecordingDisk()
    path = tmp_path / "file"
    atomic_write(path, b"old" * 100, disk)
    calls_before = len(disk.log)
    atomic_write(path, b"new" * 100, disk)
    states = list(disk.crash_states())
    assert len(states) == 3 * (len(disk.log) + 1)
    assert {state[str(path)] for state in states[3 * calls_before :]} == {b"old" * 100, b"new" * 100}


def test_a_replacement_without_fsync_would_be_detected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = RecordingDisk()
    path = tmp_path / "file"
    monkeypatch.setattr(RecordingDisk, "fsync", FileOps.fsync)  # runs, but is not recorded
    atomic_write(path, b"new" * 100, disk)
    assert any(state.get(str(path)) not in (None, b"new" * 100) for state in disk.crash_states())


@pytest.mark.parametrize("failing_call", range(1, 5))
def test_a_disk_that_fails_at_any_call_leaves_only_the_old_file(tmp_path: Path, failing_call: int) -> None:
    path = tmp_path / "file"
    atomic_write(path, b"old")
    with pytest.raises(OSError, match="No space"):
        atomic_write(path, b"new", FailingDisk(failing_call))
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_torn_last_line_is_cut_on_opening(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    path.write_bytes(b'{"a":1}\n{"a":2')
    lines = AppendOnlyFile(path)
    lines.append(b'{"a":3}')
    assert path.read_bytes() == b'{"a":1}\n{"a":3}\n'
    lines.truncate(8)
    lines.append(b"x")
    lines.close()
    assert path.read_bytes() == b'{"a":1}\nx\n'


@pytest.mark.parametrize("open_again", [lambda p: AppendOnlyFile(p).length])
def test_lines_remember_their_length(tmp_path: Path, open_again: Callable[[Path], int]) -> None:
    lines = AppendOnlyFile(tmp_path / "lines")
    lines.append(b"one")
    assert lines.length == open_again(tmp_path / "lines") == 4
