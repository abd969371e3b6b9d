"""Opening a file that a user names: a regular file, and nothing that could block or never end."""

import os
import stat
from io import BufferedReader
from pathlib import Path

from convatlas.errors import UserError, printable

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


def open_regular_file(
    path: Path, error: type[UserError] = UserError, expected: str = "expected a file"
) -> BufferedReader:
    """Open a regular file, or a link to one, for reading.

    Raises `error`, in one sentence that ends in `expected`, for a file that is missing or may not be read,
    and for a folder, a named pipe, a device or a socket: reading a pipe waits for its writer, and a device
    need not end.
    """
    try:
        # without blocking: opening a pipe would wait for a writer
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as reason:
        raise error(f"cannot read {printable(path)} ({reason.strerror}): {expected}") from None
    except ValueError:  # a zero byte in the name
        raise error(f"cannot read {printable(path)} (no file can have this name): {expected}") from None
    kind = stat.S_IFMT(os.fstat(file).st_mode)
    if kind != stat.S_IFREG:
        os.close(file)
        raise error(f"cannot read {printable(path)} (it is {_KINDS.get(kind, 'no file')}): {expected}")
    return os.fdopen(file, "rb")


def read_regular_file(
    path: Path, error: type[UserError] = UserError, expected: str = "expected a file"
) -> bytes:
    """The content of a regular file. Raises `error` as `open_regular_file`."""
    with open_regular_file(path, error, expected) as stream:
        try:
            return stream.read()
        except OSError as reason:
            raise error(f"cannot read {printable(path)} ({reason.strerror}): {expected}") from None
