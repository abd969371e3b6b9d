"""JSON lines that are appended durably, each with a hash of itself and the line before: damage and lost lines
show.

A line ends with the key `hash`: the first 16 hexadecimal digits of the SHA-256 of the line before's hash and
this line without its own. A last line that a crash has torn is cut off on opening.
"""

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from convatlas.errors import UserError, printable
from convatlas.storage.atomic import FILE_OPS, AppendOnlyFile, FileOps
from convatlas.storage.records import encode_json
from convatlas.storage.regular_file import read_user_file

RESTORE = "restore the file, or remove it with its folder and start again"
_HASHED = re.compile(rb'(\{.*),"hash":"([0-9a-f]{16})"\}', re.DOTALL)


def read_json_lines(file: Path, remedy: str = RESTORE) -> Iterator[bytes]:
    """The whole lines of a file, checked; a torn last line is left out, since a process may be writing it.

    Raises UserError, which ends with `remedy`, for a line that is damaged, or that does not follow the line
    before, and UserError for a file that cannot be read.
    """
    previous = b""
    for number, line in enumerate(read_user_file(file).split(b"\n")[:-1], 1):
        previous = _check(line, previous, number, file, remedy)
        yield line


class JsonLines:
    """A file of hashed JSON lines, open for appending.

    Raises UserError, which ends with `remedy`, when what is there is damaged, OSError when the disk refuses.
    """

    def __init__(self, path: Path, ops: FileOps = FILE_OPS, remedy: str = RESTORE):
        self._file = AppendOnlyFile(path, ops)
        self._hashes = [b""]  # of no line, of the first line, of the second, ...
        self._ends = [0]  # in bytes, of the same
        try:
            for line in read_json_lines(path, remedy):
                self._hashes.append(_hash_of(line))
                self._ends.append(self._ends[-1] + len(line) + 1)
        except UserError:
            self._file.close()
            raise

    @property
    def length(self) -> int:
        """Bytes of whole lines."""
        return self._file.length

    def append(self, document: dict[str, Any]) -> None:
        """Append `document`, which has at least one key, as one line."""
        content = encode_json(document)[:-1]
        digest = _digest(content, self._hashes[-1])
        self._file.append(content + b',"hash":"' + digest + b'"}')
        self._hashes.append(digest)
        self._ends.append(self._file.length)

    def truncate(self, length: int) -> None:
        """Drop every line after the first `length` bytes, which end with a line.

        Raises UserError where they do not.
        """
        if length not in self._ends:
            path = printable(self._file.path)
            raise UserError(
                f"{path} has no line that ends at byte {length:,}: lines are lost, or it is another run's log"
            )
        self._file.truncate(length)
        while self._ends[-1] > length:
            self._ends.pop()
            self._hashes.pop()

    def sync(self) -> None:
        self._file.sync()

    def close(self) -> None:
        self._file.close()


def _check(line: bytes, previous: bytes, number: int, file: Path, remedy: str) -> bytes:
    """The line's hash."""
    match = _HASHED.fullmatch(line)
    if match is None or _digest(match[1], previous) != match[2]:
        raise UserError(
            f"{printable(file)} is damaged at line {number}: its hash does not match the line and those "
            f"before; {remedy}"
        )
    return match[2]


def _hash_of(line: bytes) -> bytes:
    return line[-18:-2]


def _digest(content: bytes, previous: bytes) -> bytes:
    return hashlib.sha256(previous + content).hexdigest()[:16].encode()
