"""Split a data set's files into train, val and test by a manifest that trainings read. No file is moved."""

import csv
import io
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from convatlas.data.sources.files import FileImages
from convatlas.data.sources.quarantine import Quarantine
from convatlas.data.sources.source import RawDataset, check_every_class
from convatlas.data.sources.split import stratified_holdout
from convatlas.errors import UsageError, printable
from convatlas.names import encodable, escape_name


@dataclass(frozen=True)
class SplitManifest:
    """A split of a source's files.

    `splits` are indices into the source's samples. `left_out` samples are on the quarantine list.
    """

    source: RawDataset
    files: FileImages
    splits: dict[str, NDArray[np.int64]]
    left_out: int

    def manifest(self, folder: Path) -> bytes:
        """The manifest as CSV, with names relative to `folder`, escaped as `convatlas.names` says."""
        groups = self.source.groups
        split_by_index = {int(index): split for split, indices in self.splits.items() for index in indices}
        path_to_root = _path_below(folder, self.files.root)
        rows = [("file", "label", "split", "group") if groups is not None else ("file", "label", "split")]
        for index in sorted(split_by_index):
            name = self.files.names[index]
            label = self.source.classes[self.source.labels[index]]
            row = (_manifest_name(os.path.join(path_to_root, name)), label, split_by_index[index])
            if groups is None:
                rows.append(row)
                continue
            # a source names a group `group NAME`, and the group of an ungrouped image after its file
            group = "" if groups[index] == name else groups[index].removeprefix("group ")
            rows.append((*row, encodable(group)))
        text = io.StringIO()
        is_plain = all(cell == cell.strip() and cell.isprintable() for row in rows for cell in row)
        writer = csv.writer(
            text, quoting=csv.QUOTE_MINIMAL if is_plain else csv.QUOTE_ALL, lineterminator="\n"
        )
        writer.writerows(rows)
        return text.getvalue().encode()


def split_files(source: RawDataset, val: float, test: float, seed: int | None = None) -> SplitManifest:
    """Split a source's files by class, and by group if it has groups.

    `val` and `test` are fractions of the samples. Without a seed the split is that of a training: by content
    alone.

    Raises UsageError for fractions or a source that cannot be split, UserError for a data set that is too
    small.
    """
    for option, fraction in (("--val", val), ("--test", test)):
        if not 0 < fraction < 1:
            raise UsageError(f"{option} should be more than 0 and less than 1, not {fraction}")
    if val + test >= 1:
        raise UsageError(
            f"--val {val} and --test {test} leave nothing for train: together they should be less than 1"
        )
    if not isinstance(source.images, FileImages):
        raise UsageError(
            f"{printable(source.name)} does not consist of files that a manifest can name: "
            f"expected folder:PATH or manifest:FILE"
        )
    hashes = [bytes(content_hash) for content_hash in source.content_hashes]
    quarantined = {entry.content for entry in Quarantine(source.root).entries()} if source.root else set()
    usable = np.array(
        [i for i, content_hash in enumerate(hashes) if content_hash.hex() not in quarantined], np.int64
    )
    groups = None if source.groups is None else [source.groups[i] for i in usable]
    val_indices, test_indices, train_indices = stratified_holdout(
        source.labels[usable], [hashes[i] for i in usable], [val, test], groups, seed
    )
    splits = {"train": usable[train_indices], "val": usable[val_indices], "test": usable[test_indices]}
    unit = "images" if groups is None else "groups"
    for name, indices in splits.items():
        change = "lower --val and --test" if name == "train" else f"change --{name}"
        hint = f"it has too few {unit}, so add some or {change}"
        check_every_class(source.classes, source.labels[indices], name, hint)
    return SplitManifest(source, source.images, splits, len(hashes) - len(usable))


def _path_below(folder: Path, root: Path) -> str:
    """The path from a folder down to `root`. Raises UsageError if `root` is not below the folder."""
    path = os.path.relpath(os.path.abspath(root), os.path.abspath(folder))
    if path.split(os.sep)[0] == os.pardir:
        raise UsageError(
            f"a manifest can only name files below its folder: "
            f"expected --out in {printable(root)} or above it"
        )
    return path


def _manifest_name(name: str) -> str:
    name = escape_name(os.path.normpath(name))
    return f"{name[0]}\\x3a{name[2:]}" if name[1:2] == ":" else name  # else it would be read as a drive
