"""A list of image files: CSV with a header, or JSON lines, with `file` and `label`, and where wanted `split` and `group`.

Files are named from the list's own folder. Images of one group are never torn apart by a split that is made here.
"""

import csv
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

JSON_LINES = (".jsonl", ".ndjson", ".json")
MAX_LINE = 64 << 10  # bytes
COLUMNS = "file,label and optionally split and group"


class ManifestRow(msgspec.Struct):
    """A line of the list; other columns are passed over."""

    file: str
    label: str | int
    split: str | None = None
    group: str | int | None = None


def open_manifest(path: Path) -> RawDataset:
    """Raises UserError naming the line of what cannot be used."""
    if not path.is_file():
        raise UserError(f"{printable(path)} is not a file: expected a list of images, CSV or JSON lines with {COLUMNS}")
    home = path.parent
    seen: dict[str, tuple[str, str | None, str | None]] = {}
    for number, row in _json_lines(path) if path.suffix.lower() in JSON_LINES else _csv(path):
        where = f"{printable(path)}, line {number}"
        name = _inside(row.file, where)
        split = _split(row.split, where)
        listed = validate_class_name(str(row.label), where), split, None if row.group in (None, "") else str(row.group)
        if seen.setdefault(name, listed) != listed:
            raise UserError(f"{where}: {printable(name)} is listed twice, with another label, split or group: keep one of the lines")
        if (split is None) != (next(iter(seen.values()))[1] is None):
            raise UserError(f"{where}: some images have a split and others none: give every line a split, or no line")
    names = list(seen)
    if names and not any((home / name).exists() for name in names):
        raise UserError(
            f"{printable(path)} lists {printable(names[0])} and no file that exists: files are named from the list's own folder"
        )
    classes, labels = encode_labels(label for label, _, _ in seen.values())
    splits = np.array([split or "" for _, split, _ in seen.values()], "U5")
    groups = [name if group is None else f"group {group}" for name, (_, _, group) in seen.items()]
    torn = len(set(zip(groups, splits.tolist(), strict=True))) - len(set(groups))
    files = FileImages(home, names)
    return RawDataset(
        name=f"manifest:{path}",
        classes=classes,
        channels=detect_channels(files),
        images=files,
        labels=labels,
        content_hashes=content_hash.hash_files(home, names),
        splits={str(part): np.flatnonzero(splits == part) for part in np.unique(splits) if part},
        groups=groups if any(group is not None for _, _, group in seen.values()) else None,
        notes=(f"{torn:,} groups have images in several splits: what the network is measured on is not all new to it",) if torn else (),
        root=home,
    )


def _csv(path: Path) -> Iterator[tuple[int, ManifestRow]]:
    reader = csv.reader((line for _, line in _lines(path)), strict=True, skipinitialspace=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        for wanted in ("file", "label", "split", "group"):
            if header.count(wanted) > 1 or (wanted in ("file", "label") and wanted not in header):
                wrong = "several columns" if wanted in header else "no column"
                raise UserError(f"{printable(path)} has {wrong} named {wanted!r}: expected a first line that names {COLUMNS}")
        columns = [name if name in ManifestRow.__struct_fields__ else "" for name in header]
        for cells in reader:
            if cells and len(cells) != len(header):
                where = f"{printable(path)}, line {reader.line_num}"
                raise UserError(f"{where}: {len(cells)} cells, where the first line has {len(header)}: quote text that holds a comma")
            if cells:
                yield reader.line_num, ManifestRow(**{name: cell for name, cell in zip(columns, cells, strict=True) if name})
    except csv.Error as error:
        raise UserError(f"{printable(path)}, line {reader.line_num}: not CSV ({error}): look for a quote that is not closed") from None


def _json_lines(path: Path) -> Iterator[tuple[int, ManifestRow]]:
    decoder = msgspec.json.Decoder(ManifestRow)
    for number, line in _lines(path):
        if line.strip():
            try:
                yield number, decoder.decode(line)
            except (msgspec.DecodeError, RecursionError) as error:
                what = f"expected one JSON object a line, with {COLUMNS}"
                raise UserError(f"{printable(path)}, line {number}: {printable(error)}: {what}") from None


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    with open(path, "rb") as file:
        for number, line in enumerate(iter(lambda: file.readline(MAX_LINE + 1), b""), 1):
            if len(line) > MAX_LINE:
                raise UserError(f"{printable(path)}, line {number}: longer than the {MAX_LINE:,} bytes that are read: is it text?")
            try:
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError:
                raise UserError(f"{printable(path)}, line {number}: not text in UTF-8: save the list in UTF-8") from None


def _inside(name: str, where: str) -> str:
    """A file's name in one form. Raises UserError for one that leads out of the list's folder."""
    if PureWindowsPath(name).anchor or PureWindowsPath(name).drive or ".." in re.split(r"[/\\]", name):
        raise UserError(f"{where}: {printable(name)} leads out of the list's folder: name files from there, without a drive or '..'")
    if not name.strip() or "\0" in name or "\\" in name:
        raise UserError(f"{where}: {printable(name)!r} cannot be a file: expected a name such as cats/1.jpg, with / between folders")
    return str(PurePosixPath(name))


def _split(name: str | None, where: str) -> str | None:
    name = (name or "").strip()
    if name and name.lower() not in SPLIT_NAMES:
        raise UserError(f"{where}: unknown split {printable(name)!r}: known are {', '.join(SPLIT_NAMES)}")
    return SPLIT_NAMES[name.lower()] if name else None
