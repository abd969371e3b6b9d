"""Regular files only: reading a pipe or a device would wait for ever, and writing through a link would change
a file elsewhere."""

import errno
import os
import stat
from io import DEFAULT_BUFFER_SIZE, BufferedReader, FileIO
from pathlib import Path

from convatlas.errors import UsageError, UserError, printable

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFLNK: "a link",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


def open_regular(path: Path, buffering: int = DEFAULT_BUFFER_SIZE) -> BufferedReader:
    """Open a file, or a link to one, for reading, without waiting. Raises OSError; also for a folder, a pipe,
    a device and a socket."""
    descriptor = _open_descriptor(path, os.O_RDONLY)
    # with its name, which errors of other libraries state
    return BufferedReader(FileIO(os.fspath(path), opener=lambda *_: descriptor), buffering)


def read_regular(path: Path) -> bytes:
    """The content of a file. Raises OSError as `open_regular`."""
    with open_regular(path) as file:
        return file.read()


def open_user_file(
    path: Path, error: type[UserError] = UserError, expected: str = "expected a file"
) -> BufferedReader:
    """`open_regular` for a file that a user names: raises `error` instead, in one sentence that ends in
    `expected`."""
    try:
        return open_regular(path)
    except OSError as reason:
        raise error(f"cannot read {printable(path)} ({reason.strerror}): {expected}") from None


def read_user_file(
    path: Path, error: type[UserError] = UserError, expected: str = "expected a file"
) -> bytes:
    """The content of a file that a user names. Raises `error` as `open_user_file`."""
    with open_user_file(path, error, expected) as file:
        try:
            return file.read()
        except OSError as reason:
            raise error(f"cannot read {printable(path)} ({reason.strerror}): {expected}") from None


def open_unlinked(path: Path, flags: int) -> int:
    """`os.open` for a file that is written in place. Raises OSError for a link, a folder, a pipe, a device
    and a socket, of which nothing is changed."""
    try:
        return _open_descriptor(path, flags | os.O_NOFOLLOW)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise OSError(errno.ELOOP, "is a link, and is not written through", str(path)) from None


def _open_descriptor(path: Path, flags: int) -> int:
    """Raises OSError unless the file is a regular one; nothing waits for the writer of a pipe."""
    try:
        descriptor = os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC, 0o644)
    except ValueError:  # a zero byte
        raise OSError(errno.EINVAL, "no file can have this name", str(path)) from None
    kind = stat.S_IFMT(os.fstat(descriptor).st_mode)
    if kind == stat.S_IFREG:
        return descriptor
    os.close(descriptor)
    number = errno.EISDIR if kind == stat.S_IFDIR else errno.EINVAL
    raise OSError(number, f"it is {_KINDS[kind]}", str(path))


def check_no_links(folder: Path) -> None:
    """Raises UsageError unless everything in a folder that is about to be written, and in its subfolders, is
    a regular file or a folder: others are not written through, nor is anything deleted behind them."""
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            kind = stat.S_IFMT(os.lstat(os.path.join(parent, name)).st_mode)
            if kind not in (stat.S_IFREG, stat.S_IFDIR):
                path = printable(os.path.join(parent, name))
                raise UsageError(
                    f"{path} is {_KINDS[kind]}, and {printable(folder)} should hold files and folders alone "
                    "before anything is written there: put the file itself in its place, or give another "
                    "folder"
                )
