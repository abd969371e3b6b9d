"""Every write that is read back later: replace a whole file, or append whole lines. Both survive a crash at any point."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Disk:
    """The calls that a durable write is made of. Tests put a simulated disk in its place and stop it at every one of them."""

    def create(self, path: Path) -> int:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)

    def extend(self, path: Path) -> int:
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


DISK = Disk()


def replace(path: Path, data: bytes, disk: Disk = DISK) -> None:
    """Write `data` to `path` so that after a crash the file holds either its old or its new content, whole.

    Raises OSError when the disk refuses; the old file is then still there and the temporary one is gone.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        file = disk.create(temporary)
        try:
            disk.write(file, data)
            disk.fsync(file)  # the content must be on the disk before the name points at it
        finally:
            disk.close(file)
        disk.rename(temporary, path)
    except BaseException as error:
        disk.remove(temporary)
        if isinstance(error, OSError):
            error.filename = str(path)  # what a user knows it by
        raise
    disk.fsync_folder(path.parent)  # and the name itself


@contextmanager
def staged(path: Path) -> Iterator[Path]:
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
                    DISK.fsync(file.fileno())
            DISK.fsync_folder(Path(folder))
        DISK.rename(scratch / path.name, path)
        DISK.fsync_folder(path.parent)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


class Lines:
    """A file of whole lines (JSON lines). Opening cuts a tail that a crash has torn; `cut` goes back to an earlier length."""

    def __init__(self, path: Path, disk: Disk = DISK):
        self.path, self.disk = path, disk
        self.file = disk.extend(path)
        content = path.read_bytes()
        self.length = content.rfind(b"\n") + 1
        if self.length < len(content):
            disk.truncate(self.file, self.length)

    def append(self, line: bytes) -> None:
        try:
            self.disk.write(self.file, line + b"\n")
        except OSError as error:
            error.filename = str(self.path)
            raise
        self.length += len(line) + 1

    def cut(self, length: int) -> None:
        """Drop every line after the first `length` bytes."""
        if length < self.length:
            self.disk.truncate(self.file, length)
            self.length = length

    def sync(self) -> None:
        self.disk.fsync(self.file)

    def close(self) -> None:
        self.disk.close(self.file)
