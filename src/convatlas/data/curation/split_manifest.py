"""A data set's files divided into train, val and test by a list, which a training then follows. No file is moved."""

import csv
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from convatlas.data.sources.files import FileImages
from convatlas.data.sources.quarantine import Quarantine
from convatlas.data.sources.source import RawDataset
from convatlas.data.sources.split import stratified_holdout
from convatlas.errors import UsageError, UserError, printable


@dataclass(frozen=True)
class SplitManifest:
    """`parts` are indices into what was found; `left_out` so many are on the quarantine list."""

    source: RawDataset
    files: FileImages
    splits: dict[str, NDArray[np.int64]]
    left_out: int

    def manifest(self, folder: Path) -> bytes:
        """CSV, with the files' names from that folder. Raises UserError for a file that it cannot name."""
        split = {int(index): part for part, indices in self.splits.items() for index in indices}
        groups = self.source.groups
        rows = [("file", "label", "split", "group") if groups is not None else ("file", "label", "split")]
        above = _from(folder, self.files.root)
        for index in sorted(split):
            name = self.files.names[index]
            row = (_listed(os.path.join(above, name)), self.source.classes[self.source.labels[index]], split[index])
            # a source calls its groups `group NAME`, and an image that is in none by its file's name
            rows.append(row if groups is None else (*row, "" if groups[index] == name else groups[index].removeprefix("group ")))
        text = io.StringIO()
        plain = all(cell == cell.strip() and cell.isprintable() for row in rows for cell in row)
        csv.writer(text, quoting=csv.QUOTE_MINIMAL if plain else csv.QUOTE_ALL, lineterminator="\n").writerows(rows)
        try:
            return text.getvalue().encode()
        except UnicodeEncodeError as error:
            name = str(error.object)[: error.end].rpartition("\n")[2]
            raise UserError(f"{printable(name)}: a name that is not in UTF-8 cannot be listed: rename it") from None


def split_files(found: RawDataset, val: float, test: float, seed: int | None = None) -> SplitManifest:
    """By class, and by group where there are groups; without a seed by content alone, as a training does by itself.

    Raises UsageError for fractions or a source that cannot be divided, UserError for a set that is too small.
    """
    for option, fraction in (("--val", val), ("--test", test)):
        if not 0 < fraction < 1:
            raise UsageError(f"{option} should be more than 0 and less than 1, not {fraction}")
    if val + test >= 1:
        raise UsageError(f"--val {val} and --test {test} leave nothing for train: together they should be less than 1")
    if not isinstance(found.images, FileImages):
        raise UsageError(f"{printable(found.name)} is not made of files that a list can name: expected folder:PATH or manifest:FILE")
    keys = [bytes(key) for key in found.content_hashes]
    listed = {entry.content for entry in Quarantine(found.root).entries()} if found.root else set()
    usable = np.array([i for i, key in enumerate(keys) if key.hex() not in listed], np.int64)
    groups = None if found.groups is None else [found.groups[i] for i in usable]
    held = stratified_holdout(found.labels[usable], [keys[i] for i in usable], [val, test], groups, seed)
    parts = {part: usable[indices] for part, indices in zip(("val", "test", "train"), held, strict=True)}
    ordered = {part: parts[part] for part in ("train", "val", "test")}
    for part, indices in ordered.items():
        _each_class(found.classes, found.labels[indices], part, "images" if groups is None else "groups")
    return SplitManifest(found, found.images, ordered, len(keys) - len(usable))


def _each_class(classes: Sequence[str], labels: NDArray[np.int64], part: str, units: str) -> None:
    for name, count in zip(classes, np.bincount(labels, minlength=len(classes)), strict=True):
        if not count:
            raise UserError(
                f"{part} would have no image of class {printable(name)}, which has too few {units}: add some, or change --{part}"
            )


def _from(folder: Path, root: Path) -> str:
    """The way from a folder down to another. Raises UsageError where it does not lead down."""
    way = os.path.relpath(os.path.abspath(root), os.path.abspath(folder))
    if way.split(os.sep)[0] == os.pardir:
        raise UsageError(f"a list names files from its own folder down: expected --out in {printable(root)} or above it")
    return way


def _listed(name: str) -> str:
    name = os.path.normpath(name)
    if "\\" in name or name[1:2] == ":":  # a drive
        raise UserError(f"{printable(name)} cannot be named in a list: rename it, without a backslash and without a colon")
    return name
