"""The steps that make a data set of a source: broken samples are left out, and missing splits are added.

Everything that prevents a training is reported before it starts.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from convatlas.data.dataset import Dataset, Split
from convatlas.data.sources.passed_over import describe_passed_over
from convatlas.data.sources.source import ALL, Conflicts, RawDataset, Splits
from convatlas.data.sources.split import stratified_holdout
from convatlas.data.sources.usable_samples import find_usable_samples
from convatlas.errors import UserError, printable

TEST_FRACTION = 0.1  # of a source that publishes no test split
MAX_NAMES = 3  # classes that a note names


def prepare(
    source: RawDataset, quarantined: Sequence[str] | None = None, conflicts: Conflicts = "drop"
) -> Dataset:
    """Make a data set: leave out broken samples, and hold out the splits that the source lacks, by content.

    Without any splits the ratio is 80/10/10; else a tenth of train becomes the split that is missing.
    `quarantined` are the content hashes of the samples to leave out; None takes the source's own list. Raises
    UserError for a source that cannot be trained on.
    """
    hashes, quarantined, usable, notes, warnings = find_usable_samples(source, quarantined, conflicts)
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
    hashes, quarantined, usable, notes, warnings = find_usable_samples(source, quarantined, None)
    if not usable.any():
        raise UserError(f"{printable(source.name)} holds no image that can be used{_passed_over(source)}")
    splits: Splits = {name: indices[usable[indices]] for name, indices in source.splits.items()}
    splits = {name: indices for name, indices in splits.items() if len(indices)}
    notes += _describe_missing_classes(source, splits)
    splits[ALL] = np.flatnonzero(usable)
    return _dataset(source, splits, hashes, quarantined, notes, warnings)


def _dataset(
    source: RawDataset,
    splits: Splits,
    hashes: Sequence[bytes],
    quarantined: Sequence[str],
    notes: Sequence[str],
    warnings: Sequence[str],
) -> Dataset:
    every_sample = Split(source.images, source.labels, hashes, source.masks)
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
    for label in _missing_labels(source, train):
        where = "train" if splits else "it"
        raise UserError(
            f"{name}: {where} has no images of class {printable(source.classes[label])}: add some, or remove "
            "the class elsewhere"
        )


def _passed_over(source: RawDataset) -> str:
    text = describe_passed_over(source.passed_over)
    return f" (passed over: {text})" if text else ""


def _missing_classes(source: RawDataset, indices: NDArray[np.int64]) -> list[int]:
    sizes = source.samples(indices).class_sizes(len(source.classes))
    return [int(label) for label in np.flatnonzero(sizes == 0)]


def _missing_labels(source: RawDataset, indices: NDArray[np.int64]) -> list[int]:
    """The classes of images that are missing; masks need not show every class."""
    return [] if source.masks else _missing_classes(source, indices)


def _describe_missing_classes(source: RawDataset, splits: Splits) -> list[str]:
    notes = []
    for split, indices in splits.items():
        names = [printable(source.classes[label]) for label in _missing_classes(source, indices)]
        if names and (source.masks or split in ("val", "test")):
            noun = "pixels" if source.masks else "images"
            more = f" and {len(names) - MAX_NAMES:,} more" if len(names) > MAX_NAMES else ""
            notes.append(f"{split} has no {noun} of {', '.join(names[:MAX_NAMES])}{more}")
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
    for label in _missing_labels(source, splits["train"]):
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
    """A hash of everything that a run reads: classes, channels, splits, labels, content and masks."""
    digest = hashlib.sha256(repr((source.classes, source.channels)).encode())
    for name in sorted(splits):
        digest.update(name.encode())
        for index in splits[name]:
            digest.update(hashes[index] + int(source.labels[index]).to_bytes(4, "big"))
            if source.masks:
                digest.update(source.masks.hashes[index])
    return digest.hexdigest()
