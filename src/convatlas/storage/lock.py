"""One writer per folder. The lock is the kernel's: it is released when the process that holds it ends,
however it ends."""

import fcntl
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from convatlas.errors import UsageError, printable
from convatlas.storage.regular_file import open_unlinked

NAME = ".lock"
_held: set[int] = set()  # the descriptors of this process's locks


@contextmanager
def folder_lock(folder: Path, timeout: float = 0.0) -> Iterator[None]:
    """Lock `folder` for this process. Raises UsageError, naming the owner, when another process still holds
    the lock after `timeout` seconds; OSError when `.lock` there is no regular file."""
    with hold(open_unlinked(folder / NAME, os.O_RDWR | os.O_CREAT)) as file:
        end = time.monotonic() + timeout
        locked = try_lock(file)
        while not locked and time.monotonic() < end:
            time.sleep(0.1)
            locked = try_lock(file)
        if not locked:
            owner = printable(os.pread(file, 200, 0).decode(errors="replace").strip()) or "another process"
            raise UsageError(
                f"{folder} is being written by {owner}: wait for it to end, or give another folder with --out"
            )
        os.ftruncate(file, 0)
        os.pwrite(file, f"process {os.getpid()} on {platform.node()}\n".encode(), 0)
        yield


@contextmanager
def hold(file: int) -> Iterator[int]:
    """An open file that is closed after the block, and at once in every forked child: a lock belongs to the
    open file, so a child that kept it would hold the lock of a parent that has died."""
    _held.add(file)
    try:
        yield file
    finally:
        if file in _held:  # else in a child
            _held.remove(file)
            os.close(file)


def try_lock(file: int) -> bool:
    """Lock an open file or folder, if no other process has."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _close_in_child() -> None:
    while _held:
        os.close(_held.pop())


os.register_at_fork(after_in_child=_close_in_child)
