"""Split a data set's files into train, val and test by a manifest that trainings read. No file is moved."""

import csv
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from convatlas.data.curation.near_duplicates import LENGTH, find_near_duplicates, signature
from convatlas.data.sources.conflicts import describe_conflicts, find_conflicts
from convatlas.data.sources.files import FileImages
from convatlas.data.sources.quarantine import Quarantine
from convatlas.data.sources.source import RawDataset
from convatlas.data.sources.split import join_groups, stratified_holdout
from convatlas.data.transforms.value_range import measure_value_range
from convatlas.errors import UsageError, UserError, printable
from convatlas.names import encodable, escape_name
from convatlas.runtime.progress import track

MAX_NAMES = 3  # classes that a note names


@dataclass(frozen=True)
class SplitManifest:
    """A split of a source's files.

    `splits` are indices into the source's samples. `left_out` samples are on the quarantine list.
    """

    source: RawDataset
    files: FileImages
    splits: dict[str, NDArray[np.int64]]
    left_out: int
    notes: tuple[str, ...] = ()

    def manifest(self, folder: Path) -> bytes:
        """The manifest as CSV, with names relative to `folder`, escaped as `convatlas.names` says."""
        groups = self.source.groups
        split_by_index = {int(index): split for split, indices in self.splits.items() for index in indices}
        path_to_root = os.path.relpath(os.path.abspath(self.files.root), os.path.abspath(folder))
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


def split_files(
    source: RawDataset,
    val: float,
    test: float,
    seed: int | None = None,
    group_near_duplicates: bool = False,
) -> SplitManifest:
    """Split a source's files by class, and by group if it has groups. Files of the same content stay
    together, and on request images that look alike.

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
    if source.masks is not None:
        raise UsageError(
            f"{printable(source.name)} has masks, which a manifest does not name: it is split 80/10/10 by "
            "content as it is, and other splits are folders, PATH/train/images and PATH/train/masks"
        )
    hashes = [bytes(content_hash) for content_hash in source.content_hashes]
    quarantined = {entry.content for entry in Quarantine(source.root).entries()} if source.root else set()
    usable = np.array(
        [i for i, content_hash in enumerate(hashes) if content_hash.hex() not in quarantined], np.int64
    )
    conflicts = find_conflicts(source.images, source.labels, hashes, usable)
    if conflicts:
        pairs = describe_conflicts(conflicts, source.images, source.target_name)
        raise UserError(
            f"{printable(source.name)} has {sum(map(len, conflicts)):,} files with the same content under "
            f"different classes: {pairs}; remove the wrong ones"
        )
    groups = None if source.groups is None else [source.groups[i] for i in usable]
    notes = []
    if group_near_duplicates:
        groups, count = near_duplicate_groups(source, usable, groups)
        notes.append(f"{count:,} images look like others and stay in one split with them")
    val_indices, test_indices, train_indices = stratified_holdout(
        source.labels[usable], [hashes[i] for i in usable], [val, test], groups, seed
    )
    splits = {"train": usable[train_indices], "val": usable[val_indices], "test": usable[test_indices]}
    unit = "images" if groups is None else "groups"
    for name, indices in splits.items():
        present = set(source.labels[indices].tolist())
        missing = [label for label in range(len(source.classes)) if label not in present]
        if missing and (name == "train" or not len(indices)):
            raise UserError(
                f"{name} has no images of class {printable(source.classes[missing[0]])}: it has too few "
                f"{unit}, so add some or "
                f"{'lower --val and --test' if name == 'train' else f'change --{name}'}"
            )
        if missing:
            few = ", ".join(printable(source.classes[label]) for label in missing[:MAX_NAMES])
            more = f" and {len(missing) - MAX_NAMES:,} more" if len(missing) > MAX_NAMES else ""
            notes.append(f"{name} has no images of {few}{more}, which have too few {unit}")
    return SplitManifest(source, source.images, splits, len(hashes) - len(usable), tuple(notes))


def near_duplicate_groups(
    source: RawDataset, indices: NDArray[np.int64], groups: Sequence[str] | None
) -> tuple[list[str], int]:
    """A group for each sample at `indices`: those that look alike, or are of one group of `groups`, share
    one.

    Also the number of samples that look like another. Every image is read; broken ones are alone.
    """
    value_range = measure_value_range(source.images)
    signatures = np.zeros((len(indices), LENGTH), np.uint8)
    readable = []
    for number, index in enumerate(track(indices.tolist(), len(indices), "reading images")):
        try:
            image = source.images.image(index)
            signatures[number] = signature(
                image.decode(source.channels, (image.height, image.width), value_range)
            )
        except UserError:
            continue
        readable.append(number)
    hashes = [bytes(source.content_hashes[indices[number]]) for number in readable]
    pairs = find_near_duplicates(signatures[readable], hashes)
    names = list(groups) if groups is not None else [source.images.name(index) for index in indices.tolist()]
    linked = [[readable[pair.first], readable[pair.second]] for pair in pairs]
    return join_groups(names, linked), len({number for pair in linked for number in pair})


def _manifest_name(name: str) -> str:
    name = escape_name(os.path.normpath(name))
    return f"{name[0]}\\x3a{name[2:]}" if name[1:2] == ":" else name  # else it would be read as a drive
