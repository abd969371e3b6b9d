"""A list of image files: CSV with a header, or JSON lines.

The columns are `file` and `label`, and optionally `split` and `group`. File names are relative to the list's
own folder. A split that is made here never separates the images of a group.
"""

import csv
import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath

import msgspec
import numpy as np

from convatlas.data.sources import content_hash
from convatlas.data.sources.files import FileImages, detect_channels
from convatlas.data.sources.labels import encode_labels, validate_class_name
from convatlas.data.sources.source import SPLIT_NAMES, RawDataset
from convatlas.errors import UserError, printable
from convatlas.storage.regular_file import open_regular

JSON_LINES = (".jsonl", ".ndjson", ".json")  # extensions
MAX_LINE = 64 << 10  # bytes
MAX_NAME = 255  # bytes of a file's or a folder's name, on every common file system
COLUMNS = "file,label and optionally split and group"


class ManifestRow(msgspec.Struct):
    """A line of the list; other columns are ignored."""

    file: str
    label: str | int
    split: str | None = None
    group: str | int | None = None


def open_manifest(path: Path) -> RawDataset:
    """Open the images that a list names. Raises UserError with the line of the first error."""
    if not path.is_file():
        raise UserError(
            f"{printable(path)} is not a file: expected a list of images, CSV or JSON lines with {COLUMNS}"
        )
    root = path.parent
    entries = _read_entries(path)
    names = list(entries)
    if names and not any(os.path.exists(root / name) for name in names):
        raise UserError(
            f"{printable(path)} lists {printable(names[0])} and no file that exists: files are named from "
            "the list's own folder"
        )
    classes, labels = encode_labels(label for label, _, _ in entries.values())
    splits = np.array([split or "" for _, split, _ in entries.values()], "U5")
    groups = [name if group is None else f"group {group}" for name, (_, _, group) in entries.items()]
    has_groups = any(group is not None for _, _, group in entries.values())
    num_separated = len(set(zip(groups, splits.tolist(), strict=True))) - len(set(groups))
    notes = []
    if num_separated:
        notes.append(
            f"{num_separated:,} groups have images in several splits: the network is evaluated on some "
            "groups that it is trained on"
        )
    files = FileImages(root, names)
    return RawDataset(
        name=f"manifest:{path}",
        classes=classes,
        channels=detect_channels(files),
        images=files,
        labels=labels,
        content_hashes=content_hash.hash_files(root, names),
        splits={str(split): np.flatnonzero(splits == split) for split in np.unique(splits) if split},
        groups=groups if has_groups else None,
        notes=tuple(notes),
        root=root,
    )


def _read_entries(path: Path) -> dict[str, tuple[str, str | None, str | None]]:
    """The class, split and group of every listed file, by its name."""
    entries: dict[str, tuple[str, str | None, str | None]] = {}
    first_split: str | None = None
    for number, row in _read_json_lines(path) if path.suffix.lower() in JSON_LINES else _read_csv(path):
        position = f"{printable(path)}, line {number}"
        name = _validate_file_name(row.file, position)
        split = _validate_split(row.split, position)
        group = None if row.group in (None, "") else str(row.group)
        entry = validate_class_name(str(row.label), position), split, group
        if not entries:
            first_split = split
        if entries.setdefault(name, entry) != entry:
            raise UserError(
                f"{position}: {printable(name)} is listed twice, with another label, split or group: keep "
                "one of the lines"
            )
        if (split is None) != (first_split is None):
            raise UserError(
                f"{position}: some images have a split and others none: give every line a split, or no line"
            )
    return entries


def _read_csv(path: Path) -> Iterator[tuple[int, ManifestRow]]:
    """Yield every row with the number of its last line."""
    reader = csv.reader((line for _, line in _read_lines(path)), strict=True, skipinitialspace=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        for column in ManifestRow.__struct_fields__:
            if header.count(column) > 1 or (column in ("file", "label") and column not in header):
                problem = "several columns" if column in header else "no column"
                raise UserError(
                    f"{printable(path)} has {problem} named {column!r}: expected a first line that names "
                    f"{COLUMNS}"
                )
        columns = [name if name in ManifestRow.__struct_fields__ else "" for name in header]
        for cells in reader:
            if cells and len(cells) != len(header):
                raise UserError(
                    f"{printable(path)}, line {reader.line_num}: {len(cells)} cells, where the first line "
                    f"has {len(header)}: quote text that holds a comma"
                )
            if cells:
                values = {column: cell for column, cell in zip(columns, cells, strict=True) if column}
                yield reader.line_num, ManifestRow(**values)
    except csv.Error as error:
        raise UserError(
            f"{printable(path)}, line {reader.line_num}: not CSV ({error}): look for a quote that is not "
            "closed"
        ) from None


def _read_json_lines(path: Path) -> Iterator[tuple[int, ManifestRow]]:
    """Yield every row with the number of its line."""
    decoder = msgspec.json.Decoder(ManifestRow)
    for number, line in _read_lines(path):
        if not line.strip():
            continue
        try:
            yield number, decoder.decode(line)
        except (msgspec.DecodeError, RecursionError) as error:
            raise UserError(
                f"{printable(path)}, line {number}: {printable(error)}: expected one JSON object a line, "
                f"with {COLUMNS}"
            ) from None


def _read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield every line with its number, from 1."""
    with open_regular(path) as file:
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


def _validate_file_name(name: str, position: str) -> str:
    """A file's name in normal form. Raises UserError for one that leads out of the list's folder."""
    if PureWindowsPath(name).anchor or ".." in re.split(r"[/\\]", name):
        raise UserError(
            f"{position}: {printable(name)} leads out of the list's folder: name files from there, without a "
            "drive or '..'"
        )
    path = PurePosixPath(name)
    if not name.strip() or "\0" in name or "\\" in name or not path.parts:
        raise UserError(
            f"{position}: {printable(name)!r} cannot be a file: expected a name such as cats/1.jpg, with / "
            "between folders"
        )
    longest = max(path.parts, key=lambda name: len(name.encode()))
    if len(longest.encode()) > MAX_NAME:
        raise UserError(
            f"{position}: the name {printable(longest[:40])}... has {len(longest.encode()):,} bytes, and a "
            f"file has at most {MAX_NAME}: shorten it"
        )
    return str(path)


def _validate_split(name: str | None, position: str) -> str | None:
    """`train`, `val` or `test`; None for an image without a split."""
    name = (name or "").strip()
    if name and name.lower() not in SPLIT_NAMES:
        raise UserError(f"{position}: unknown split {printable(name)!r}: known are {', '.join(SPLIT_NAMES)}")
    return SPLIT_NAMES[name.lower()] if name else None
