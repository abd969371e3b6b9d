r"""A list of image files: CSV with a header, or JSON lines.

The columns are `file` and `label`, and optionally `split` and `group`, also under other usual names. File
names are absolute, or relative to the list's own folder; `\xNN` in them stands for a byte. A split that is
made here never separates the images of a group.
"""

import os
import re
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np

from convatlas.data.sources import content_hash
from convatlas.data.sources.file_lookup import NormalizedLookup
from convatlas.data.sources.files import FileImages, detect_channels, missing_data
from convatlas.data.sources.labels import encode_labels, validate_class_name
from convatlas.data.sources.manifest_columns import UNDERSTOOD
from convatlas.data.sources.manifest_rows import read_rows
from convatlas.data.sources.source import RawDataset
from convatlas.data.sources.split_names import SPLIT_NAMES, split_name
from convatlas.errors import UserError, printable
from convatlas.names import encodable, unescape_name

MAX_NAME = 255  # bytes of a file's or a folder's name, on every common file system

Entry = tuple[str, str | None, str | None]  # class, split and group of a listed file


def open_manifest(path: Path) -> RawDataset:
    """Open the images that a list names. Raises UserError with the line of the first error."""
    if not path.is_file():
        raise missing_data(path, "is not a file", f"a list of images, CSV or JSON lines with {UNDERSTOOD}")
    root = path.parent
    entries, warnings = _find_files(path, root, _read_entries(path))
    names = list(entries)
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
        name=encodable(f"manifest:{path}"),
        classes=classes,
        channels=detect_channels(files),
        images=files,
        labels=labels,
        content_hashes=content_hash.hash_files(root, names),
        splits={str(split): np.flatnonzero(splits == split) for split in np.unique(splits) if split},
        groups=groups if has_groups else None,
        notes=tuple(notes),
        warnings=tuple(warnings),
        root=root,
    )


def _find_files(path: Path, root: Path, entries: dict[str, Entry]) -> tuple[dict[str, Entry], list[str]]:
    """The entries under the names that their files really have, and warnings.

    A file that does not exist keeps its name, unless none exists, which is an error.
    """
    files: dict[str, Entry] = {}
    missing = []
    other_form = 0
    lookup = NormalizedLookup(root)
    for listed, entry in entries.items():
        name = listed
        if not os.path.lexists(root / listed):
            found_name = lookup.find(listed)
            other_form += found_name is not None
            name = found_name or listed
            if found_name is None:
                missing.append(listed)
        if files.setdefault(name, entry) != entry:
            raise UserError(
                f"{printable(path)} lists {printable(name)} twice, in two Unicode forms and with another "
                "label, split or group: keep one of the lines"
            )
    if missing and len(missing) == len(entries):
        raise UserError(
            f"{printable(path)} lists {printable(missing[0])} and no file that exists (looked for "
            f"{printable(os.path.abspath(root / missing[0]))}): files are named absolutely, or from the "
            "list's own folder"
        )
    warnings = []
    if missing:
        warnings.append(
            f"{len(missing):,} of {len(entries):,} listed files do not exist, {printable(missing[0])} first"
        )
    if other_form:
        warnings.append(
            f"{other_form:,} files have names in another Unicode form than the list: they were taken"
        )
    return files, warnings


def _read_entries(path: Path) -> dict[str, Entry]:
    """The class, split and group of every listed file, by its name."""
    entries: dict[str, Entry] = {}
    first_split: str | None = None
    root = os.path.abspath(path.parent)
    for number, row in read_rows(path):
        position = f"{printable(path)}, line {number}"
        name = _validate_file_name(row.file, position, root)
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


def _validate_file_name(name: str, position: str, root: str) -> str:
    """A file's name in normal form, relative to the list's folder `root` if it is below it.

    Backslashes become slashes. Raises UserError for a name that no file here can have.
    """
    if PureWindowsPath(name).drive:
        raise UserError(
            f"{position}: {printable(name)} is on a drive of another computer: name files from the "
            "list's folder, such as cats/1.jpg, or by their paths on this one"
        )
    # a backslash is a slash of another system, except before the two digits of an escaped byte
    unescaped = unescape_name(re.sub(r"\\(?!x[0-9a-f]{2})", "/", name))
    path = PurePosixPath(unescaped)
    if not name.strip() or "\0" in unescaped or not path.parts or path.name in ("", ".."):
        raise UserError(
            f"{position}: '{printable(name)}' cannot be a file: expected a name such as cats/1.jpg, with / "
            "between folders"
        )
    longest = max(path.parts, key=lambda name: len(os.fsencode(name)))
    length = len(os.fsencode(longest))
    if length > MAX_NAME:
        raise UserError(
            f"{position}: the name {printable(longest[:40])}... has {length:,} bytes, and a "
            f"file has at most {MAX_NAME}: shorten it"
        )
    return str(path.relative_to(root) if path.is_relative_to(root) else path)


def _validate_split(name: str | None, position: str) -> str | None:
    """`train`, `val` or `test`; None for an image without a split."""
    name = (name or "").strip()
    if name and split_name(name) is None:
        raise UserError(f"{position}: unknown split '{printable(name)}': known are {', '.join(SPLIT_NAMES)}")
    return split_name(name) if name else None
