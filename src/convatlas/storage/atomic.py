"""Durable writes: replace a whole file, or append whole lines. Both survive a crash at any point.

Everything that is read back later is written by them.
"""

import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from convatlas.storage.lock import hold, try_lock
from convatlas.storage.regular_file import open_unlinked, read_regular

STALE_FILE_SECONDS = 3600.0
UNLOCKED_SECONDS = 60.0  # more than passes between making a folder and locking it
_TEMPORARY = re.compile(r"\..+\.\d+\.tmp")


class FileOps:
    """The system calls of a durable write. Tests use a simulated disk instead, and stop it at every call."""

    def open_new(self, path: Path) -> int:
        path.unlink(missing_ok=True)  # of a killed process that had the same process id, or a stranger's link
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)

    def open_append(self, path: Path) -> int:
        return open_unlinked(path, os.O_RDWR | os.O_CREAT | os.O_APPEND)

    def write(self, file: int, data: bytes) -> None:
        remaining = memoryview(data)
        while remaining:
            remaining = remaining[os.write(file, remaining) :]

    def fsync(self, file: int) -> None:
        os.fsync(file)

    def truncate(self, file: int, length: int) -> None:
        os.ftruncate(file, length)

    def close(self, file: int) -> None:
        os.close(file)

    def rename(self, source: Path, target: Path) -> None:
        os.replace(source, target)

    def remove(self, path: Path) -> None:
        path.unlink(missing_ok=True)

    def fsync_folder(self, folder: Path) -> None:
        file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(file)
        finally:
            os.close(file)


FILE_OPS = FileOps()


def atomic_write(path: Path, data: bytes, ops: FileOps = FILE_OPS) -> None:
    """Write `data` to `path`: after a crash the file holds its old or its new content, complete.

    Raises OSError when the disk refuses; the old file then still exists and the temporary file is deleted.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        file = ops.open_new(temporary)
        try:
            ops.write(file, data)
            ops.fsync(file)  # the content must be on the disk before the name points at it
        finally:
            ops.close(file)
        ops.rename(temporary, path)
    except BaseException as error:
        ops.remove(temporary)
        if isinstance(error, OSError):
            error.filename = str(path)  # the name that the user knows
        raise
    ops.fsync_folder(path.parent)  # and the name itself


@contextmanager
def atomic_output(path: Path) -> Iterator[Path]:
    """Yield a temporary path for a library that writes a file or folder by itself. After the block the output
    is renamed to `path`, complete and synced to the disk.

    When the block raises, everything in it is deleted. Raises OSError when `path` is a folder that already
    exists: it is not replaced.
    """
    with scratch_folder(path) as scratch:
        yield scratch / path.name
        for folder, _, names in os.walk(scratch, topdown=False):
            for name in names:
                with open(Path(folder, name), "rb") as file:
                    FILE_OPS.fsync(file.fileno())
            FILE_OPS.fsync_folder(Path(folder))
        FILE_OPS.rename(scratch / path.name, path)
        FILE_OPS.fsync_folder(path.parent)


@contextmanager
def scratch_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside `path`, removed after the block. It is locked meanwhile, so that a later
    process can tell that of a process that was killed, and removes it."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path.parent)
    if scratch.is_symlink():
        scratch.unlink()
    shutil.rmtree(scratch, ignore_errors=True)  # left by a killed process that had the same process id
    scratch.mkdir()
    try:
        with hold(os.open(scratch, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)) as file:
            try_lock(file)
            yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files and folders in `folder` whose processes were killed while they wrote: a
    folder that no process has locked, a file that is an hour old, since a file is written in one go."""
    for entry in list(os.scandir(folder)):
        if not _TEMPORARY.fullmatch(entry.name):
            continue
        with suppress(OSError):  # another process may be removing it, too
            age = time.time() - entry.stat(follow_symlinks=False).st_mtime
            if not entry.is_dir(follow_symlinks=False):
                if age > STALE_FILE_SECONDS:
                    os.unlink(entry.path)
            elif age > UNLOCKED_SECONDS:
                with hold(os.open(entry.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)) as file:
                    if try_lock(file):
                        shutil.rmtree(entry.path)


class AppendOnlyFile:
    """A file of whole lines, open for appending. A last line that a crash has torn is cut off on opening."""

    def __init__(self, path: Path, ops: FileOps = FILE_OPS):
        self.path = path
        self.ops = ops
        self.file = ops.open_append(path)
        content = read_regular(path)
        self.length = content.rfind(b"\n") + 1  # bytes of whole lines
        if self.length < len(content):
            ops.truncate(self.file, self.length)

    def append(self, line: bytes) -> None:
        try:
            self.ops.write(self.file, line + b"\n")
        except OSError as error:
            error.filename = str(self.path)
            raise
        self.length += len(line) + 1

    def truncate(self, length: int) -> None:
        """Drop every line after the first `length` bytes."""
        if length < self.length:
            self.ops.truncate(self.file, length)
            self.length = length

    def sync(self) -> None:
        self.ops.fsync(self.file)

    def close(self) -> None:
        self.ops.close(self.file)
