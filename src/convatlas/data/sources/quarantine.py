"""The list of what was found broken in a data set: written by `data check` and by trainings, left out by every run started later.

A line holds a file's name, what is wrong with it, and the hash of its content: a file that has been mended is no longer on the list.
"""

import os
from collections.abc import Iterable
from pathlib import Path

import msgspec

from convatlas.data.sources.content_hash import content_hash
from convatlas.errors import UserError
from convatlas.storage.atomic import JsonLines
from convatlas.storage.cache import cache_dir
from convatlas.storage.records import Record

NAME = "quarantine.jsonl"


class QuarantinedFile(Record, frozen=True, kw_only=True):
    file: str
    reason: str
    content: str  # hash, in hexadecimal


class Quarantine:
    """The list of a data set that lives in a folder: beside the data where one may write there, else in the user's cache."""

    def __init__(self, home: Path):
        beside = home / NAME
        private = cache_dir() / "quarantine" / f"{content_hash(str(home.resolve()).encode()).hex()}.jsonl"
        self.file = beside if os.access(beside if beside.exists() else home, os.W_OK) else private
        self.lists = {beside, private}

    def entries(self) -> list[QuarantinedFile]:
        """Raises UserError for a list that is none."""
        found = []
        for file in sorted(self.lists):
            try:
                lines = file.read_bytes().splitlines()
            except OSError:
                continue
            for line in lines:
                try:
                    found.append(msgspec.json.decode(line, type=QuarantinedFile))
                except msgspec.DecodeError as error:
                    raise UserError(f"{file} is not a list of broken files ({error}): mend that line or remove the file") from None
        return found

    def add(self, entries: Iterable[QuarantinedFile]) -> None:
        """Append what is not there yet. Raises OSError."""
        known = {entry.content for entry in self.entries()}
        self.file.parent.mkdir(parents=True, exist_ok=True)
        lines = JsonLines(self.file)
        try:
            for entry in entries:
                if entry.content not in known:
                    known.add(entry.content)
                    lines.append(msgspec.json.encode(entry))
            lines.sync()
        finally:
            lines.close()
