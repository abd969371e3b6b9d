"""From what a source holds to a data set: broken samples left out, splits completed, everything named before anything is trained."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from convatlas.data.dataset import ArrayImages, Dataset, ImageSource, Split, Subset
from convatlas.data.sources.quarantine import Quarantine
from convatlas.data.sources.split import ContentHashes, stratified_holdout
from convatlas.errors import UserError, printable

SPLIT_NAMES = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test", "testing": "test"}


@dataclass(frozen=True, kw_only=True)
class RawDataset:
    """What a source holds. `parts` are the indices of the splits that it publishes, empty where it has none; `keys` hash each sample's
    content; `groups` name what must not be torn apart. `home` is the folder where the list of broken samples lives."""

    name: str
    classes: tuple[str, ...]
    channels: int
    images: ImageSource
    labels: NDArray[np.int64]
    content_hashes: ContentHashes
    splits: Mapping[str, NDArray[np.int64]] = field(default_factory=dict)
    groups: Sequence[str] | None = None
    size: tuple[int, int] | None = None
    validation: float = 0.1  # of train, where there is no validation split
    hflip_safe: bool = True
    notes: tuple[str, ...] = ()
    root: Path | None = None


def prepare(found: RawDataset, quarantined: Sequence[str] | None = None) -> Dataset:
    """Splits that a source lacks are held out by content: 80/10/10, or a tenth of train for validation. `quarantined` are the content
    hashes of what is left out; None takes the source's own list. Raises UserError for what cannot be trained on."""
    notes = list(found.notes)
    keys = [bytes(key) for key in found.content_hashes]
    if quarantined is None:
        listed = {entry.content for entry in Quarantine(found.root).entries()} if found.root else set()
        quarantined = sorted(listed & {key.hex() for key in keys})
    out = set(quarantined)
    usable = np.array([key.hex() not in out for key in keys], bool)
    if not usable.all():
        notes.append(f"{int((~usable).sum()):,} broken files are left out: they are on the quarantine list")
    parts = {part: indices[usable[indices]] for part, indices in found.splits.items()}
    if parts and not len(parts.get("train", ())):
        raise UserError(f"{printable(found.name)} has {', '.join(parts)} but no train images")
    if len(found.classes) < 2:
        raise UserError(f"{printable(found.name)} should hold at least 2 classes of images; found {len(found.classes)}")
    for part, indices in (parts or {"": np.flatnonzero(usable)}).items():
        _each_class(found, part, indices)

    wanted = [part for part in ("val", "test") if part not in parts]
    if wanted:
        source = parts.get("train", np.flatnonzero(usable))
        groups = None if found.groups is None else [found.groups[i] for i in source]
        fractions = [found.validation if part == "val" else 0.1 for part in wanted]
        held = stratified_holdout(found.labels[source], [keys[i] for i in source], fractions, groups)
        for part, indices in zip([*wanted, "train"], held, strict=True):
            parts[part] = source[indices]
            if len(np.unique(found.labels[parts[part]])) < len(found.classes):
                what = "every class needs at least 5 images" if groups is None else "every class needs several groups"
                raise UserError(f"{printable(found.name)} is too small to split: {what} for {part} to hold each class")
        counts = ", ".join(f"{len(parts[p]):,} {p}" for p in ("train", *wanted))
        how = f"{'was' if len(wanted) == 1 else 'were'} split off by {'content' if groups is None else 'group'}"
        notes.append(f"{' and '.join(wanted)} {how}: {counts}")

    digest = hashlib.sha256(repr((found.classes, found.channels)).encode())
    for part in sorted(parts):
        digest.update(part.encode())
        for index in parts[part]:
            digest.update(keys[index] + int(found.labels[index]).to_bytes(4, "big"))
    order = ("train", "val", "test", *sorted(set(parts) - {"train", "val", "test"}))
    splits = {part: Split(_choose(found.images, parts[part]), found.labels[parts[part]], [keys[i] for i in parts[part]]) for part in order}
    return Dataset(
        found.name,
        found.classes,
        found.channels,
        found.size,
        splits,
        digest.hexdigest(),
        hflip_safe=found.hflip_safe,
        notes=tuple(notes),
        quarantined=tuple(quarantined),
        root=found.root,
    )


def _choose(images: ImageSource, indices: NDArray[np.int64]) -> ImageSource:
    return ArrayImages(images.array[indices]) if isinstance(images, ArrayImages) else Subset(images, indices)


def _each_class(found: RawDataset, part: str, indices: NDArray[np.int64]) -> None:
    counts = np.bincount(found.labels[indices], minlength=len(found.classes))
    for name, count in zip(found.classes, counts, strict=True):
        if not count:
            where = f"{printable(found.name)}{': ' if part else ''}{part}"
            raise UserError(f"{where} has no images of class {printable(name)}: add some, or remove the class elsewhere")
