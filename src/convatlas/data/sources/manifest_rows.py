"""The rows of a list of images, read from CSV or JSON lines, each with the number of its line."""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from convatlas.data.sources.manifest_columns import UNDERSTOOD, detect_separator, find_columns
from convatlas.errors import UserError, printable
from convatlas.storage.regular_file import open_user_file

JSON_LINES = (".jsonl", ".ndjson", ".json")  # extensions
MAX_LINE = 64 << 10  # bytes


class ManifestRow(msgspec.Struct):
    """A line of the list; other columns are ignored."""

    file: str
    label: str | int
    split: str | None = None
    group: str | int | None = None


def read_rows(path: Path) -> Iterator[tuple[int, ManifestRow]]:
    """Yield every row with the number of its (last) line. Raises UserError."""
    return _read_json_lines(path) if path.suffix.lower() in JSON_LINES else _read_csv(path)


def _read_csv(path: Path) -> Iterator[tuple[int, ManifestRow]]:
    lines = (line for _, line in _read_lines(path))
    first = next(lines, "")
    reader = csv.reader(
        (line for part in ((first,), lines) for line in part),
        strict=True,
        skipinitialspace=True,
        delimiter=detect_separator(first),
    )
    try:
        header = [name.strip() for name in next(reader, [])]
        columns = find_columns(header, printable(path))
        positions = {column: header.index(name) for column, name in columns.items()}
        for cells in reader:
            if cells and len(cells) != len(header):
                raise UserError(
                    f"{printable(path)}, line {reader.line_num}: {len(cells)} cells, where the first line "
                    f"has {len(header)}: quote text that holds a "
                    f"{_NAMES.get(reader.dialect.delimiter, 'comma')}"
                )
            if cells:
                values = {column: cells[position] for column, position in positions.items()}
                yield reader.line_num, ManifestRow(**values)
    except csv.Error as error:
        raise UserError(
            f"{printable(path)}, line {reader.line_num}: not CSV ({error}): look for a quote that is not "
            "closed"
        ) from None


_NAMES = {";": "semicolon", "\t": "tab", "|": "vertical bar"}


def _read_json_lines(path: Path) -> Iterator[tuple[int, ManifestRow]]:
    decoder = msgspec.json.Decoder(dict[str, Any])
    for number, line in _read_lines(path):
        if not line.strip():
            continue
        position = f"{printable(path)}, line {number}"
        try:
            values = decoder.decode(line)
            columns = find_columns(list(values), position)
            row = msgspec.convert({column: values[name] for column, name in columns.items()}, ManifestRow)
        except (msgspec.DecodeError, RecursionError) as error:
            raise UserError(
                f"{position}: {printable(error)}: expected one JSON object a line, with {UNDERSTOOD}"
            ) from None
        yield number, row


def _read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield every line with its number, from 1."""
    with open_user_file(path) as file:
        for number, line in enumerate(iter(lambda: file.readline(MAX_LINE + 1), b""), 1):
            if len(line) > MAX_LINE:
                raise UserError(
                    f"{printable(path)}, line {number}: longer than the {MAX_LINE:,} bytes that are read: is "
                    "it text?"
                )
            try:
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError:
                raise UserError(
                    f"{printable(path)}, line {number}: not text in UTF-8: save the list in UTF-8"
                ) from None
