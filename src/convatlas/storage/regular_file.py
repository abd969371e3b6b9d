"""Regular files only: reading a pipe or a device would wait for ever, and writing through a link would change
a file elsewhere."""

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

from convatlas.errors import UsageError, printable


def open_regular(path: Path, buffering: int = -1) -> BinaryIO:
    """Open a file for reading, without waiting. Raises OSError; also for a folder, a pipe and a device."""
    file = open(path, "rb", buffering, opener=_without_waiting)  # noqa: SIM115  # the caller closes it
    try:
        check_regular(file.fileno(), path)
    except OSError:
        file.close()
        raise
    return file


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY)


def read_regular(path: Path) -> bytes:
    """The content of a file. Raises OSError; also for a folder, a pipe and a device."""
    with open_regular(path) as file:
        return file.read()


def open_unlinked(path: Path, flags: int) -> int:
    """`os.open` for a file that is written in place. Raises OSError for a link, a folder, a pipe and a
    device, of which nothing is changed."""
    try:
        descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o644)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise OSError(errno.ELOOP, "is a link, and is not written through", str(path)) from None
    try:
        check_regular(descriptor, path)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def check_regular(descriptor: int, path: Path) -> None:
    """Raises OSError, which names `path`, unless the open file is a regular one."""
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "not a file", str(path))


def check_no_links(folder: Path) -> None:
    """Raises UsageError unless everything in a folder that is about to be written, and in its subfolders, is
    a regular file or a folder: others are not written through, nor is anything deleted behind them."""
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            mode = os.lstat(os.path.join(parent, name)).st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                kind = "a link" if stat.S_ISLNK(mode) else "a pipe or a device"
                path = printable(os.path.join(parent, name))
                raise UsageError(
                    f"{path} is {kind}, and {printable(folder)} should hold files and folders alone before "
                    "anything is written there: put the file itself in its place, or give another folder"
                )
