"""Split a data set's files into train, val and test. No file is moved."""

from collections.abc import Sequence
from dataclasses import dataclass

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
from convatlas.runtime.progress import track

MAX_NAMES = 3  # classes that a note names


@dataclass(frozen=True)
class FileSplit:
    """A split of a source's files.

    `splits` are indices into the source's samples. `left_out` samples are on the quarantine list.
    """

    source: RawDataset
    files: FileImages
    splits: dict[str, NDArray[np.int64]]
    left_out: int
    notes: tuple[str, ...] = ()


def split_files(
    source: RawDataset,
    val: float,
    test: float,
    seed: int | None = None,
    group_near_duplicates: bool = False,
) -> FileSplit:
    """Split a source's files by class, and by group if it has groups. Files of the same content stay
    together, and on request images that look alike. Images without a usable mask are left out.

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
    listed = np.array([content_hash.hex() in quarantined for content_hash in hashes], bool)
    broken = [index for index in sorted(source.broken) if not listed[index]]
    usable = np.setdiff1d(np.flatnonzero(~listed), broken)
    conflicts = find_conflicts(source.images, source.targets, hashes, usable)
    if conflicts:
        pairs = describe_conflicts(conflicts, source.images, source.target_name)
        raise UserError(
            f"{printable(source.name)} has {sum(map(len, conflicts)):,} files with the same content under "
            f"different {'classes' if source.masks is None else 'masks'}: {pairs}; remove the wrong ones"
        )
    groups = None if source.groups is None else [source.groups[i] for i in usable]
    notes = []
    if broken:
        first = printable(source.broken[broken[0]])
        notes.append(f"{len(broken):,} images without a usable mask are left out, the first: {first}")
    if group_near_duplicates:
        groups, count = near_duplicate_groups(source, usable, groups)
        notes.append(f"{count:,} images look like others and stay in one split with them")
    val_indices, test_indices, train_indices = stratified_holdout(
        source.labels[usable], [hashes[i] for i in usable], [val, test], groups, seed
    )
    splits = {"train": usable[train_indices], "val": usable[val_indices], "test": usable[test_indices]}
    unit = "images" if groups is None else "groups"
    for name, indices in splits.items():
        notes += _describe_missing_classes(source, name, indices, unit)
    return FileSplit(source, source.images, splits, int(listed.sum()), tuple(notes))


def _describe_missing_classes(
    source: RawDataset, name: str, indices: NDArray[np.int64], unit: str
) -> list[str]:
    """A note where a split lacks classes. Raises UserError for one without samples, and for training images
    that lack a class; masks need not show every class."""
    sizes = source.samples(indices).images_by_class(len(source.classes))
    missing = [printable(source.classes[label]) for label in np.flatnonzero(sizes == 0)]
    remedy = "lower --val and --test" if name == "train" else f"change --{name}"
    if not len(indices) and source.masks is not None:
        raise UserError(f"{name} has no images: there are too few {unit}, so add some or {remedy}")
    if missing and (not len(indices) or (name == "train" and source.masks is None)):
        raise UserError(
            f"{name} has no images of class {missing[0]}: it has too few {unit}, so add some or {remedy}"
        )
    if not missing:
        return []
    more = f" and {len(missing) - MAX_NAMES:,} more" if len(missing) > MAX_NAMES else ""
    few = f"{', '.join(missing[:MAX_NAMES])}{more}, which have too few {unit}"
    return [f"{name} has no {'images' if source.masks is None else 'pixels'} of {few}"]


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
