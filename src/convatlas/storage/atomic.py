"""Every write that is read back later: replace a whole file, or append whole lines. Both survive a crash at any point."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class FileOps:
    """The calls that a durable write is made of. Tests put a simulated disk in its place and stop it at every one of them."""

    def open_new(self, path: Path) -> int:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)

    def open_append(self, path: Path) -> int:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)

    def write(self, file: int, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(file, rest) :]

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
    """Write `data` to `path` so that after a crash the file holds either its old or its new content, whole.

    Raises OSError when the disk refuses; the old file is then still there and the temporary one is gone.
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
            error.filename = str(path)  # what a user knows it by
        raise
    ops.fsync_folder(path.parent)  # and the name itself


@contextmanager
def atomic_output(path: Path) -> Iterator[Path]:
    """For a library that writes by itself: where it may write a file or a folder, which is `path` afterwards, whole and on the disk.

    When the block ends by an error nothing of it stays. A folder that is there already is not replaced: OSError.
    """
    scratch = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    shutil.rmtree(scratch, ignore_errors=True)  # of a process that had this number and was killed
    scratch.mkdir(parents=True)
    try:
        yield scratch / path.name
        for folder, _, names in os.walk(scratch, topdown=False):
            for name in names:
                with open(Path(folder, name), "rb") as file:
                    FILE_OPS.fsync(file.fileno())
            FILE_OPS.fsync_folder(Path(folder))
        FILE_OPS.rename(scratch / path.name, path)
        FILE_OPS.fsync_folder(path.parent)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


class JsonLines:
    """A file of whole lines (JSON lines). Opening cuts a tail that a crash has torn; `cut` goes back to an earlier length."""

    def __init__(self, path: Path, ops: FileOps = FILE_OPS):
        self.path, self.ops = path, ops
        self.file = ops.open_append(path)
        content = path.read_bytes()
        self.length = content.rfind(b"\n") + 1
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
