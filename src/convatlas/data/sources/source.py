"""The content of a source, and the steps that make a data set of it.

Broken samples are left out, and missing splits are added. Everything that prevents a training is reported
before it starts.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from convatlas.data.dataset import Dataset, ImageSource, Split
from convatlas.data.images.deep_pixels import ValueRange
from convatlas.data.sources.quarantine import Quarantine
from convatlas.data.sources.split import ContentHashes, stratified_holdout
from convatlas.errors import UserError, printable

SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
TEST_FRACTION = 0.1  # of a source that publishes no test split

Splits = dict[str, NDArray[np.int64]]  # the sample indices of each split


@dataclass(frozen=True, kw_only=True)
class RawDataset:
    """The content of a source, before it is split.

    `splits` holds the sample indices of the splits that the source publishes, and is empty if there are none.
    `groups` has a name for each sample: samples of one group stay in one split.
    """

    name: str
    classes: tuple[str, ...]
    channels: int
    images: ImageSource
    labels: NDArray[np.int64]
    content_hashes: ContentHashes
    splits: Mapping[str, NDArray[np.int64]] = field(default_factory=dict)
    groups: Sequence[str] | None = None
    size: tuple[int, int] | None = None  # (height, width) of every image; None if they differ
    val_fraction: float = 0.1  # of train, if there is no validation split
    hflip_safe: bool = True  # whether a mirrored image still belongs to its class
    notes: tuple[str, ...] = ()
    root: Path | None = None  # the folder of the quarantine list
    value_range: ValueRange | None = None  # of pixels of more than 8 bits that were packed


def prepare(source: RawDataset, quarantined: Sequence[str] | None = None) -> Dataset:
    """Make a data set: leave out broken samples, and hold out the splits that the source lacks, by content.

    Without any splits the ratio is 80/10/10; else a tenth of train becomes the split that is missing.
    `quarantined` are the content hashes of the samples to leave out; None takes the source's own list. Raises
    UserError for a source that cannot be trained on.
    """
    hashes = [bytes(content_hash) for content_hash in source.content_hashes]
    if quarantined is None:
        quarantined = _list_quarantined(source.root, hashes)
    left_out = set(quarantined)
    usable = np.array([content_hash.hex() not in left_out for content_hash in hashes], bool)
    notes = list(source.notes)
    if not usable.all():
        notes.append(f"{int((~usable).sum()):,} broken files are left out: they are on the quarantine list")
    splits: Splits = {name: indices[usable[indices]] for name, indices in source.splits.items()}
    _check_classes(source, splits, np.flatnonzero(usable))

    missing = [name for name in ("val", "test") if name not in splits]
    if missing:
        pool = splits.get("train", np.flatnonzero(usable))
        splits |= _hold_out(source, missing, pool, hashes)
        notes.append(_describe_holdout(source, missing, splits))
    every_sample = Split(source.images, source.labels, hashes)
    order = ("train", "val", "test", *sorted(set(splits) - {"train", "val", "test"}))
    return Dataset(
        source.name,
        source.classes,
        source.channels,
        source.size,
        {name: every_sample.subset(splits[name]) for name in order},
        _sha256(source, splits, hashes),
        hflip_safe=source.hflip_safe,
        notes=tuple(notes),
        quarantined=tuple(quarantined),
        root=source.root,
        value_range=source.value_range,
    )


def _list_quarantined(root: Path | None, hashes: Sequence[bytes]) -> list[str]:
    """The content hashes on the quarantine list that occur in the source, sorted."""
    listed = {entry.content for entry in Quarantine(root).entries()} if root else set()
    return sorted(listed & {content_hash.hex() for content_hash in hashes})


def _check_classes(source: RawDataset, splits: Splits, usable: NDArray[np.int64]) -> None:
    """Raise UserError unless there are train images, two classes, and images of each class in each split."""
    name = printable(source.name)
    if splits and not len(splits.get("train", ())):
        raise UserError(f"{name} has {', '.join(splits)} but no train images")
    if len(source.classes) < 2:
        raise UserError(f"{name} should hold at least 2 classes of images; found {len(source.classes)}")
    for split, indices in (splits or {"": usable}).items():
        subject = f"{name}{': ' if split else ''}{split}"
        check_every_class(
            source.classes, source.labels[indices], subject, "add some, or remove the class elsewhere"
        )


def check_every_class(classes: Sequence[str], labels: NDArray[np.int64], subject: str, hint: str) -> None:
    """Raise UserError for the first class without a sample.

    `subject` names the split, `hint` says what to do.
    """
    counts = np.bincount(labels, minlength=len(classes))
    for name, count in zip(classes, counts, strict=True):
        if not count:
            raise UserError(f"{subject} has no images of class {printable(name)}: {hint}")


def _hold_out(
    source: RawDataset, missing: Sequence[str], pool: NDArray[np.int64], hashes: Sequence[bytes]
) -> Splits:
    """Divide the samples `pool` into the missing splits and train."""
    groups = None if source.groups is None else [source.groups[i] for i in pool]
    fractions = [source.val_fraction if name == "val" else TEST_FRACTION for name in missing]
    indices = stratified_holdout(source.labels[pool], [hashes[i] for i in pool], fractions, groups)
    splits = {name: pool[chosen] for name, chosen in zip([*missing, "train"], indices, strict=True)}
    for name, members in splits.items():
        if len(np.unique(source.labels[members])) < len(source.classes):
            needed = "at least 5 images" if groups is None else "several groups"
            raise UserError(
                f"{printable(source.name)} is too small to split: every class needs {needed} for {name} to "
                "hold each class"
            )
    return splits


def _describe_holdout(source: RawDataset, missing: Sequence[str], splits: Splits) -> str:
    verb = "was" if len(missing) == 1 else "were"
    criterion = "content" if source.groups is None else "group"
    counts = ", ".join(f"{len(splits[name]):,} {name}" for name in ("train", *missing))
    return f"{' and '.join(missing)} {verb} split off by {criterion}: {counts}"


def _sha256(source: RawDataset, splits: Splits, hashes: Sequence[bytes]) -> str:
    """A hash of everything that a run reads: classes, channels, splits, labels and content."""
    digest = hashlib.sha256(repr((source.classes, source.channels)).encode())
    for name in sorted(splits):
        digest.update(name.encode())
        for index in splits[name]:
            digest.update(hashes[index] + int(source.labels[index]).to_bytes(4, "big"))
    return digest.hexdigest()
