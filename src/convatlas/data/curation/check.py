"""Is every image of a data set readable, what it seems to be, and there only once? All is read, exactly as a training reads it."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from convatlas.data.curation.ignored_files import ignored_files
from convatlas.data.curation.image_warnings import image_warnings
from convatlas.data.curation.near_duplicates import LENGTH, find_near_duplicates, signature
from convatlas.data.curation.statistics import Counts, ImageSize, class_counts, size_range
from convatlas.data.dataset import Subset
from convatlas.data.images.decode import EncodedImage, UnreadableImage
from convatlas.data.sources.files import FileImages
from convatlas.data.sources.quarantine import Quarantine, QuarantinedFile
from convatlas.data.sources.source import RawDataset, prepare
from convatlas.errors import UserError, printable
from convatlas.runtime.device import usable_cores
from convatlas.runtime.progress import track

PIECE = 50  # images that a thread reads before it looks for more
Splits = Mapping[str, NDArray[np.int64]]  # the indices of every split


class Note(NamedTuple):
    file: str
    note: str


@dataclass(frozen=True)
class Duplicate:
    """Two images that show the same, and where they are; `identical` to the byte. convatlas.data.similar says what `distance` is."""

    files: tuple[str, str]
    splits: tuple[str, str]
    classes: tuple[str, str]
    distance: float
    identical: bool


@dataclass(frozen=True, kw_only=True)
class CheckReport:
    """`classes` counts the readable images by split. `refusal` says why no training can use the set, `remarks` how it is split.
    Pairs of `duplicates` are within `reach` of each other."""

    name: str
    n: int
    bad: list[QuarantinedFile]
    notes: list[Note]
    duplicates: list[Duplicate]
    reach: float
    classes: Counts
    sizes: dict[str, ImageSize]
    refusal: str | None
    remarks: tuple[str, ...]


class _CheckedImage(NamedTuple):
    """What is known of one image; without a look it cannot be read, for this reason."""

    reason: str = ""
    notes: Sequence[str] = ()
    size: tuple[int, int] = (0, 0)  # width, height
    signature: NDArray[np.uint8] | None = None


def check(found: RawDataset, workers: int | None = None) -> CheckReport:
    """Reads every image of every split, with as many threads as there are cores: decoders let other threads run."""
    names = [printable(found.images.name(i)) for i in range(len(found.labels))]
    keys = [bytes(key) for key in found.content_hashes]
    listed = {entry.content for entry in Quarantine(found.root).entries()} if found.root else set()
    looks, sizes = np.zeros((len(names), LENGTH), np.uint8), np.zeros((len(names), 2), np.int64)
    bad, notes = [], []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # once for all threads: of two that set and restore the filters, one restores the other's
        for index, read in enumerate(track(_read_all(found, workers or usable_cores()), len(names), "reading images")):
            if read.signature is None:
                bad.append(QuarantinedFile(file=names[index], reason=read.reason, content=keys[index].hex()))
                continue
            looks[index], sizes[index] = read.signature, read.size
            notes += [Note(names[index], note) for note in read.notes]
            if keys[index].hex() in listed:
                notes.append(Note(names[index], "on the quarantine list, although it can be read: take its line out of it"))
    if isinstance(found.images, FileImages) and found.name.startswith("folder:"):
        notes += [Note(printable(file), f"passed over: {why}") for file, why in ignored_files(found.images.root, found.images.names)]

    parts, refusal, remarks = _splits(found, sorted(listed | {entry.content for entry in bad}))
    readable = np.flatnonzero(sizes[:, 0])
    parts = {part: np.intersect1d(indices, readable) for part, indices in parts.items()}
    rank = np.full(len(names), len(parts))
    for number, indices in reversed([*enumerate(parts.values())]):  # the first, where several hold it
        rank[indices] = number
    splits, classes = [*parts, "left out"], [printable(name) for name in found.classes]
    ordered = readable[
        np.argsort(rank[readable], kind="stable")
    ]  # so that of equal files each is paired with one of train, if there is one
    pairs, reach = find_near_duplicates(looks[ordered], [keys[i] for i in ordered])
    duplicates = []
    for first, second, distance in pairs:
        a, b = int(ordered[first]), int(ordered[second])
        where, called = (splits[rank[a]], splits[rank[b]]), (classes[found.labels[a]], classes[found.labels[b]])
        duplicates.append(Duplicate((names[a], names[b]), where, called, distance, keys[a] == keys[b]))
    return CheckReport(
        name=found.name,
        n=len(names),
        bad=bad,
        notes=notes,
        duplicates=duplicates,
        reach=reach,
        classes=class_counts(found.classes, found.labels, parts),
        sizes=size_range(sizes[readable], [names[i] for i in readable]),
        refusal=refusal,
        remarks=remarks,
    )


def quarantine(found: RawDataset, bad: Sequence[QuarantinedFile]) -> Path | None:
    """Put them on the set's list, where it has one. Raises OSError."""
    if found.root is None or not bad:
        return None
    where = Quarantine(found.root)
    where.add(bad)
    return where.file


def _read_all(found: RawDataset, workers: int) -> Iterator[_CheckedImage]:
    pool = ThreadPoolExecutor(workers)
    pieces = [range(start, min(start + PIECE, len(found.labels))) for start in range(0, len(found.labels), PIECE)]
    try:
        for piece in pool.map(lambda piece: [_read(found, index) for index in piece], pieces):
            yield from piece
    finally:
        pool.shutdown(cancel_futures=True)


def _read(found: RawDataset, index: int) -> _CheckedImage:
    try:
        picture = found.images.image(index)
        pixels = picture.decode(found.channels, (picture.height, picture.width))
    except UnreadableImage as error:
        return _CheckedImage(error.reason)
    except UserError as error:  # of a store that is damaged
        return _CheckedImage(str(error))
    odd = image_warnings(picture, pixels, found.channels) if isinstance(picture, EncodedImage) else ()
    return _CheckedImage(notes=odd, size=(picture.width, picture.height), signature=signature(pixels))


def _splits(found: RawDataset, left_out: Sequence[str]) -> tuple[Splits, str | None, tuple[str, ...]]:
    """As a training would split it, or else as the source does, and why no training can use it; and what was decided on the way."""
    everything = np.arange(len(found.labels))
    try:
        whole = prepare(replace(found, images=Subset(found.images, everything)), left_out)  # chosen once more, images tell their index
    except UserError as error:
        order = [part for part in ("train", "val", "test") if part in found.splits]
        parts = {part: found.splits[part] for part in dict.fromkeys([*order, *found.splits])}
        return parts or {"all": everything}, str(error), found.notes
    return {part: split.images.indices for part, split in whole.splits.items() if isinstance(split.images, Subset)}, None, whole.notes
