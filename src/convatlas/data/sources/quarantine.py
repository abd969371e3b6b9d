"""The list of a data set's broken samples: `data check` and trainings write it, later runs leave them out.

A line holds a file's name, the reason why it cannot be read, and the hash of its content: a file that has
been repaired is no longer on the list.
"""

import os
from collections.abc import Iterable
from pathlib import Path

import msgspec

from convatlas.data.sources.content_hash import content_hash
from convatlas.errors import UserError, printable
from convatlas.storage.atomic import AppendOnlyFile
from convatlas.storage.cache import cache_dir
from convatlas.storage.records import Record, encode_json, record_sha256
from convatlas.storage.regular_file import read_regular

NAME = "quarantine.jsonl"


class QuarantinedFile(Record, frozen=True, kw_only=True):
    """A line of the list."""

    file: str
    reason: str
    content: str  # the content hash in hexadecimal
    hash: str = ""  # of the other three; a line that a person or ConvAtlas 0.2.0 wrote may have none

    def digest(self) -> str:
        """The hash of such a line: a flipped bit would give an image back to the trainings."""
        return record_sha256((self.file, self.reason, self.content))[:16]


class Quarantine:
    """The quarantine list of the data set in a folder.

    It lies beside the data if that is writable, else in the user's cache.
    """

    def __init__(self, root: Path):
        beside = root / NAME
        key = content_hash(str(root.resolve()).encode(errors="surrogateescape")).hex()
        in_cache = cache_dir() / "quarantine" / f"{key}.jsonl"
        is_writable = os.access(beside if beside.exists() else root, os.W_OK)
        self.file = beside if is_writable else in_cache  # the file that `add` writes
        self.lists = {beside, in_cache}

    def entries(self) -> list[QuarantinedFile]:
        """The lines of both files. Raises UserError for a file with a line that is no entry."""
        entries = []
        for file in sorted(self.lists):
            try:
                lines = read_regular(file).splitlines()
            except OSError:
                continue
            for line in lines:
                try:
                    entry = msgspec.json.decode(line, type=QuarantinedFile)
                except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                    raise UserError(
                        f"{file} is not a list of broken files ({error}): fix that line or remove the file"
                    ) from None
                if entry.hash not in ("", entry.digest()):
                    raise UserError(
                        f"{file} is damaged: the hash of {printable(entry.file)} does not match its line; "
                        "remove that line, and data check writes it again"
                    )
                entries.append(entry)
        return entries

    def add(self, entries: Iterable[QuarantinedFile]) -> None:
        """Append the entries that are not on the list yet. Raises OSError."""
        known = {entry.content for entry in self.entries()}
        self.file.parent.mkdir(parents=True, exist_ok=True)
        lines = AppendOnlyFile(self.file)
        try:
            for entry in entries:
                if entry.content not in known:
                    known.add(entry.content)
                    lines.append(encode_json(entry.replace(hash=entry.digest())))
            lines.sync()
        finally:
            lines.close()
