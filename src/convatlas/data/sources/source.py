"""The content of a source, and the steps that make a data set of it.

Broken samples are left out, and missing splits are added. Everything that prevents a training is reported
before it starts.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from convatlas.data.dataset import Dataset, ImageSource, Split
from convatlas.data.images.deep_pixels import ValueRange
from convatlas.data.sources.conflicts import describe_conflicts, find_conflicts
from convatlas.data.sources.passed_over import PassedOver, describe_passed_over
from convatlas.data.sources.quarantine import Quarantine
from convatlas.data.sources.split import ContentHashes, stratified_holdout
from convatlas.errors import UserError, printable

TEST_FRACTION = 0.1  # of a source that publishes no test split
ALL = "all"  # the split of every sample, for evaluation
MAX_NAMES = 3  # classes that a note names

Splits = dict[str, NDArray[np.int64]]  # the sample indices of each split
Conflicts = Literal["stop", "drop"]  # samples of equal content and different classes: an error, or left out


@dataclass(frozen=True, kw_only=True)
class RawDataset:
    """The content of a source, before it is split.

    `splits` holds the sample indices of the splits that the source publishes, and is empty if there are none.
    `groups` has a name for each sample: samples of one group stay in one split. `published`: the labels are
    those of a published benchmark, and are used as they are, whatever is equal to what.
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
    notes: tuple[str, ...] = ()  # decisions: they belong to a run
    warnings: tuple[str, ...] = ()  # facts that change nothing
    passed_over: tuple[PassedOver, ...] = ()  # files and folders of the source that are not used
    published: bool = False
    hint: str = ""  # what to do if there are too few classes
    root: Path | None = None  # the folder of the quarantine list
    value_range: ValueRange | None = None  # of pixels of more than 8 bits that were packed


def prepare(
    source: RawDataset, quarantined: Sequence[str] | None = None, conflicts: Conflicts = "drop"
) -> Dataset:
    """Make a data set: leave out broken samples, and hold out the splits that the source lacks, by content.

    Without any splits the ratio is 80/10/10; else a tenth of train becomes the split that is missing.
    `quarantined` are the content hashes of the samples to leave out; None takes the source's own list. Raises
    UserError for a source that cannot be trained on.
    """
    hashes, quarantined, usable, notes, warnings = _usable_samples(source, quarantined, conflicts)
    splits: Splits = {name: indices[usable[indices]] for name, indices in source.splits.items()}
    splits = {name: indices for name, indices in splits.items() if len(indices) or name == "train"}
    _check_training(source, splits, np.flatnonzero(usable))
    missing = [name for name in ("val", "test") if name not in splits]
    if missing:
        pool = splits.get("train", np.flatnonzero(usable))
        splits |= _hold_out(source, missing, pool, hashes)
        notes += _describe_holdout(source, missing, splits, hashes)
    notes += _describe_missing_classes(source, splits)
    warnings += _describe_leaks(splits, hashes)
    return _dataset(source, splits, hashes, quarantined, notes, warnings)


def prepare_evaluation(source: RawDataset, quarantined: Sequence[str] | None = None) -> Dataset:
    """A data set that is evaluated only: the published splits, of which none is needed, and `all` samples.

    Nothing is held out, and splits may lack classes. `quarantined` is as in `prepare`. Raises UserError for a
    source without samples.
    """
    hashes, quarantined, usable, notes, warnings = _usable_samples(source, quarantined, None)
    if not usable.any():
        raise UserError(f"{printable(source.name)} holds no image that can be used{_passed_over(source)}")
    splits: Splits = {name: indices[usable[indices]] for name, indices in source.splits.items()}
    splits = {name: indices for name, indices in splits.items() if len(indices)}
    notes += _describe_missing_classes(source, splits)
    splits[ALL] = np.flatnonzero(usable)
    return _dataset(source, splits, hashes, quarantined, notes, warnings)


def _usable_samples(
    source: RawDataset, quarantined: Sequence[str] | None, conflicts: Conflicts | None
) -> tuple[list[bytes], Sequence[str], NDArray[np.bool_], list[str], list[str]]:
    """The content hashes, the quarantined ones among them, which samples are usable, notes and warnings.

    conflicts: None keeps samples with the same content and different classes, with a warning.
    """
    hashes = [bytes(content_hash) for content_hash in source.content_hashes]
    if quarantined is None:
        quarantined = _list_quarantined(source.root, hashes)
    left_out = set(quarantined)
    usable = np.array([content_hash.hex() not in left_out for content_hash in hashes], bool)
    notes = list(source.notes)
    warnings = list(source.warnings)
    if not usable.all():
        notes.append(f"{int((~usable).sum()):,} broken files are left out: they are on the quarantine list")
    used = np.concatenate([np.zeros(0, np.int64), *source.splits.values()]) if source.splits else None
    candidates = np.flatnonzero(usable) if used is None else used[usable[used]]
    sets = find_conflicts(source.images, source.labels, hashes, candidates)
    if not sets:
        return hashes, quarantined, usable, notes, warnings
    pairs = describe_conflicts(sets, source.images, source.labels, source.classes)
    count = sum(map(len, sets))
    if source.published or conflicts is None:
        warnings.append(f"{count:,} images have the same content and different classes: {pairs}")
    elif conflicts == "stop":
        raise UserError(
            f"{printable(source.name)} has {count:,} files with the same content under different classes: "
            f"{pairs}; remove the wrong ones, or leave all of them out with --set data.conflicts=drop"
        )
    else:
        usable[np.concatenate(sets)] = False
        notes.append(f"{count:,} files with the same content under different classes are left out: {pairs}")
    return hashes, quarantined, usable, notes, warnings


def _dataset(
    source: RawDataset,
    splits: Splits,
    hashes: Sequence[bytes],
    quarantined: Sequence[str],
    notes: Sequence[str],
    warnings: Sequence[str],
) -> Dataset:
    every_sample = Split(source.images, source.labels, hashes)
    usual = [name for name in ("train", "val", "test") if name in splits]
    return Dataset(
        source.name,
        source.classes,
        source.channels,
        source.size,
        {name: every_sample.subset(splits[name]) for name in [*usual, *sorted(set(splits) - set(usual))]},
        _hash_splits(source, splits, hashes),
        hflip_safe=source.hflip_safe,
        notes=tuple(notes),
        warnings=tuple(warnings),
        passed_over=describe_passed_over(source.passed_over),
        quarantined=tuple(quarantined),
        root=source.root,
        value_range=source.value_range,
    )


def _list_quarantined(root: Path | None, hashes: Sequence[bytes]) -> list[str]:
    """The content hashes on the quarantine list that occur in the source, sorted."""
    listed = {entry.content for entry in Quarantine(root).entries()} if root else set()
    return sorted(listed & {content_hash.hex() for content_hash in hashes})


def _check_training(source: RawDataset, splits: Splits, usable: NDArray[np.int64]) -> None:
    """Raise UserError unless there are two classes, and training images of each."""
    name = printable(source.name)
    if len(source.classes) < 2:
        classes = f", {printable(source.classes[0])}" if source.classes else _passed_over(source)
        hint = f": {source.hint}" if source.hint else ""
        raise UserError(
            f"{name} should hold at least 2 classes of images; found {len(source.classes)}{classes}{hint}"
        )
    if splits and not len(splits.get("train", ())):
        others = " and ".join(split for split in splits if split != "train")
        raise UserError(
            f"{name} has {others} but no train images: it can be evaluated on, and a training needs a folder "
            "or split train"
        )
    train = splits.get("train", usable)
    for label in _missing_classes(source, train):
        where = "train" if splits else "it"
        raise UserError(
            f"{name}: {where} has no images of class {printable(source.classes[label])}: add some, or remove "
            "the class elsewhere"
        )


def _passed_over(source: RawDataset) -> str:
    text = describe_passed_over(source.passed_over)
    return f" (passed over: {text})" if text else ""


def _missing_classes(source: RawDataset, indices: NDArray[np.int64]) -> list[int]:
    counts = np.bincount(source.labels[indices], minlength=len(source.classes))
    return [int(label) for label in np.flatnonzero(counts == 0)]


def _describe_missing_classes(source: RawDataset, splits: Splits) -> list[str]:
    notes = []
    for split, indices in splits.items():
        names = [printable(source.classes[label]) for label in _missing_classes(source, indices)]
        if names and split in ("val", "test"):
            more = f" and {len(names) - MAX_NAMES:,} more" if len(names) > MAX_NAMES else ""
            notes.append(f"{split} has no images of {', '.join(names[:MAX_NAMES])}{more}")
    return notes


def _hold_out(
    source: RawDataset, missing: Sequence[str], pool: NDArray[np.int64], hashes: Sequence[bytes]
) -> Splits:
    """Divide the samples `pool` into the missing splits and train."""
    groups = None if source.groups is None else [source.groups[i] for i in pool]
    fractions = [source.val_fraction if name == "val" else TEST_FRACTION for name in missing]
    indices = stratified_holdout(source.labels[pool], [hashes[i] for i in pool], fractions, groups)
    splits = {name: pool[chosen] for name, chosen in zip([*missing, "train"], indices, strict=True)}
    unit = "images that differ" if groups is None else "groups"
    for name, members in splits.items():
        if not len(members):
            raise UserError(
                f"{printable(source.name)} is too small to split: its {len(pool):,} images of "
                f"{len(source.classes)} classes leave none for {name}; a class needs {len(splits)} {unit} to "
                "be in every split"
            )
    for label in _missing_classes(source, splits["train"]):
        raise UserError(
            f"{printable(source.name)} is too small to split: no images of class "
            f"{printable(source.classes[label])} are left for train; a class needs {len(splits)} {unit} to "
            "be in every split"
        )
    return splits


def _describe_holdout(
    source: RawDataset, missing: Sequence[str], splits: Splits, hashes: Sequence[bytes]
) -> list[str]:
    verb = "was" if len(missing) == 1 else "were"
    criterion = "content" if source.groups is None else "group"
    counts = ", ".join(f"{len(splits[name]):,} {name}" for name in ("train", *missing))
    notes = [f"{' and '.join(missing)} {verb} split off by {criterion}: {counts}"]
    pool = np.concatenate([splits[name] for name in ("train", *missing)])
    copies = len(pool) - len({hashes[index] for index in pool.tolist()})
    if copies:
        noun = "image has" if copies == 1 else "images have"
        notes.append(f"{copies:,} {noun} the same content as another: copies are in one split")
    return notes


def _describe_leaks(splits: Splits, hashes: Sequence[bytes]) -> list[str]:
    """Warnings about images of val and test whose content is in train too."""
    train = {hashes[index] for index in splits["train"].tolist()}
    warnings = []
    for split in ("val", "test"):
        count = sum(hashes[index] in train for index in splits[split].tolist())
        if count:
            warnings.append(
                f"{count:,} of {len(splits[split]):,} {split} images have the same content as images of "
                "train: they are not new to the network"
            )
    return warnings


def _hash_splits(source: RawDataset, splits: Splits, hashes: Sequence[bytes]) -> str:
    """A hash of everything that a run reads: classes, channels, splits, labels and content."""
    digest = hashlib.sha256(repr((source.classes, source.channels)).encode())
    for name in sorted(splits):
        digest.update(name.encode())
        for index in splits[name]:
            digest.update(hashes[index] + int(source.labels[index]).to_bytes(4, "big"))
    return digest.hexdigest()
