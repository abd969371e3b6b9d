"""One writer per folder. The lock is the kernel's: it is released when the process that holds it ends,
however it ends."""

import fcntl
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from convatlas.errors import UsageError, printable


@contextmanager
def folder_lock(folder: Path, timeout: float = 0.0) -> Iterator[None]:
    """Lock `folder` for this process. Raises UsageError, naming the owner, when another process still holds
    the lock after `timeout` seconds."""
    with open(folder / ".lock", "a+") as file:
        end = time.monotonic() + timeout
        locked = _try_lock(file)
        while not locked and time.monotonic() < end:
            time.sleep(0.1)
            locked = _try_lock(file)
        if not locked:
            file.seek(0)
            owner = printable(file.read().strip()) or "another process"
            raise UsageError(
                f"{folder} is being written by {owner}: wait for it to end, or give another folder with --out"
            )
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}\n")
        file.flush()
        yield


def _try_lock(file: TextIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
