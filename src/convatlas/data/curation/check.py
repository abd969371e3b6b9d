"""Check every image of a data set: can it be read, is it what it seems to be, does it occur only once?

Every image is read exactly as a training reads it.
"""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from convatlas.data.curation.image_warnings import image_warnings
from convatlas.data.curation.near_duplicates import LENGTH, MAX_DISTANCE, find_near_duplicates, signature
from convatlas.data.curation.statistics import Counts, ImageSize, class_counts, size_range
from convatlas.data.dataset import Subset
from convatlas.data.images.decode import EncodedImage
from convatlas.data.images.deep_pixels import ValueRange
from convatlas.data.images.unreadable import UnreadableImage
from convatlas.data.sources.passed_over import PassedOver, describe_passed_over
from convatlas.data.sources.prepare import prepare
from convatlas.data.sources.quarantine import Quarantine, QuarantinedFile
from convatlas.data.sources.source import RawDataset
from convatlas.data.transforms.value_range import (
    dataset_value_range,
    describe_value_range,
    measure_value_range,
)
from convatlas.errors import UserError, printable
from convatlas.names import escape_name
from convatlas.runtime.distributed.ranks import SINGLE_PROCESS, Ranks
from convatlas.runtime.num_threads import usable_cores
from convatlas.runtime.progress import track

CHUNK_SIZE = 50  # images that a thread reads at a time
SplitIndices = Mapping[str, NDArray[np.int64]]  # the sample indices of each split


class Note(NamedTuple):
    file: str
    note: str


@dataclass(frozen=True)
class Duplicate:
    """Two images that are equal or look alike, with their splits and classes.

    `identical` means equal bytes. convatlas.data.curation.near_duplicates defines `distance`.
    """

    files: tuple[str, str]
    splits: tuple[str, str]
    classes: tuple[str, str]
    distance: float
    identical: bool


@dataclass(frozen=True, kw_only=True)
class CheckReport:
    """The report of `check`.

    `classes` counts the readable images by class and split. `training_error` says why no training can use the
    data set. `split_notes` say how it is split. The `duplicates` are pairs within `max_distance`.
    `passed_over` counts the files and folders that are not used, by reason. `bad_masks` say why images have
    no mask that can be used; they are not on the quarantine list, which holds images.
    """

    name: str
    n: int
    bad: list[QuarantinedFile]
    bad_masks: list[Note]
    notes: list[Note]
    duplicates: list[Duplicate]
    max_distance: float
    classes: Counts
    sizes: dict[str, ImageSize]
    training_error: str | None
    split_notes: tuple[str, ...]
    passed_over: str = ""

    @property
    def ok(self) -> bool:
        """Whether every image can be read and a training can use them."""
        return not self.bad and self.training_error is None


class _CheckedImage(NamedTuple):
    """The findings about one image. Without a signature it cannot be read, for the given reason."""

    reason: str = ""
    warnings: Sequence[str] = ()
    size: tuple[int, int] = (0, 0)  # width, height
    signature: NDArray[np.uint8] | None = None


def check(source: RawDataset, workers: int | None = None, ranks: Ranks = SINGLE_PROCESS) -> CheckReport:
    """Read every image of every split, with `workers` threads (default: one per core). The ranks share the
    images, and each gets the report.

    Threads are enough, because decoders release the GIL.
    """
    value_range = _value_range(source)
    share = range(ranks.rank, len(source.labels), ranks.world_size)
    with warnings.catch_warnings():
        # Once for all threads: if two threads set and restored the filters, one would restore those of the
        # other.
        warnings.simplefilter("ignore")
        threads = workers or max(1, usable_cores() // ranks.local_world_size)
        checked = list(track(_read_all(source, value_range, share, threads), len(share), "reading images"))
    shares = ranks.all_gather(checked)
    images = [
        shares[index % ranks.world_size][index // ranks.world_size] for index in range(len(source.labels))
    ]
    return ranks.run_on_main(lambda: _report(source, value_range, images))


def _report(
    source: RawDataset, value_range: ValueRange | None, images: Sequence[_CheckedImage]
) -> CheckReport:
    names = [escape_name(source.images.name(index)) for index in range(len(source.labels))]
    hashes = [bytes(content_hash) for content_hash in source.content_hashes]
    quarantined = {entry.content for entry in Quarantine(source.root).entries()} if source.root else set()
    signatures = np.zeros((len(names), LENGTH), np.uint8)
    sizes = np.zeros((len(names), 2), np.int64)
    bad = []
    notes = []
    for index, image in enumerate(images):
        if image.signature is None:
            bad.append(QuarantinedFile(file=names[index], reason=image.reason, content=hashes[index].hex()))
            continue
        signatures[index] = image.signature
        sizes[index] = image.size
        notes += [Note(names[index], warning) for warning in image.warnings]
        if hashes[index].hex() in quarantined:
            note = "on the quarantine list, although it can be read: remove its line from the list"
            notes.append(Note(names[index], note))
    unusable = np.array(sorted(source.broken), np.int64)
    notes += [Note(names[index], note) for index, note in sorted(source.mask_notes.items())]
    notes += [
        Note(_passed_over_name(source, entry), f"passed over: {entry.reason}") for entry in source.passed_over
    ]

    left_out = sorted(quarantined | {entry.content for entry in bad})
    splits, training_error, split_notes = _split_as_training(source, left_out)
    if value_range is not None:
        split_notes = (*split_notes, describe_value_range(value_range))
    readable = np.flatnonzero(sizes[:, 0])
    usable = np.setdiff1d(readable, unusable)
    splits = {name: np.intersect1d(indices, usable) for name, indices in splits.items()}
    duplicates = _find_duplicates(source, names, hashes, signatures, readable, splits)
    return CheckReport(
        name=source.name,
        n=len(names),
        bad=bad,
        bad_masks=[Note(names[index], source.broken[index]) for index in unusable.tolist()],
        notes=notes,
        duplicates=duplicates,
        max_distance=MAX_DISTANCE,
        classes=class_counts(
            source.classes, {name: source.samples(indices) for name, indices in splits.items()}
        ),
        sizes=size_range(sizes[readable], [names[index] for index in readable]),
        training_error=training_error,
        split_notes=split_notes,
        passed_over=describe_passed_over(source.passed_over),
    )


def _passed_over_name(source: RawDataset, entry: PassedOver) -> str:
    return printable(source.root / entry.name if source.root else entry.name)


def quarantine(source: RawDataset, bad: Sequence[QuarantinedFile]) -> Path | None:
    """Add files to the data set's quarantine list, and return the list's path.

    Returns None if there are no files, or for a data set without such a list. Raises OSError.
    """
    if source.root is None or not bad:
        return None
    quarantine_list = Quarantine(source.root)
    quarantine_list.add(bad)
    return quarantine_list.file


def _value_range(source: RawDataset) -> ValueRange | None:
    """The scale of a training's pixels; of all images where none can be trained on."""
    try:
        return dataset_value_range(prepare(source))
    except UserError:
        return measure_value_range(source.images)


def _read_all(
    source: RawDataset, value_range: ValueRange | None, indices: range, workers: int
) -> Iterator[_CheckedImage]:
    pool = ThreadPoolExecutor(workers)
    chunks = [indices[start : start + CHUNK_SIZE] for start in range(0, len(indices), CHUNK_SIZE)]
    try:
        for images in pool.map(lambda chunk: [_read(source, value_range, index) for index in chunk], chunks):
            yield from images
    finally:
        pool.shutdown(cancel_futures=True)


def _read(source: RawDataset, value_range: ValueRange | None, index: int) -> _CheckedImage:
    try:
        image = source.images.image(index)
        pixels = image.decode(source.channels, (image.height, image.width), value_range)
    except UnreadableImage as error:
        return _CheckedImage(error.reason)
    except UserError as error:  # a store that is damaged
        return _CheckedImage(str(error))
    return _CheckedImage(
        warnings=image_warnings(image, pixels, source.channels) if isinstance(image, EncodedImage) else (),
        size=(image.width, image.height),
        signature=signature(pixels),
    )


def _split_as_training(
    source: RawDataset, left_out: Sequence[str]
) -> tuple[SplitIndices, str | None, tuple[str, ...]]:
    """Split the data set as a training would: the splits, None, and the notes about the split.

    If no training can use the data set: the source's own splits, the reason, and the source's notes.
    `left_out` are the content hashes of the samples that are left out.
    """
    all_indices = np.arange(len(source.labels))
    # as a Subset of a Subset, each split says which samples it has
    indexed_source = replace(source, images=Subset(source.images, all_indices))
    try:
        dataset = prepare(indexed_source, left_out, "stop")
    except UserError as error:
        usual_names = [name for name in ("train", "val", "test") if name in source.splits]
        published = {name: source.splits[name] for name in dict.fromkeys([*usual_names, *source.splits])}
        return published or {"all": all_indices}, str(error), (*source.notes, *source.warnings)
    splits = {
        name: split.images.indices
        for name, split in dataset.splits.items()
        if isinstance(split.images, Subset)
    }
    return splits, None, (*dataset.notes, *dataset.warnings)


def _find_duplicates(
    source: RawDataset,
    names: Sequence[str],
    hashes: Sequence[bytes],
    signatures: NDArray[np.uint8],
    readable: NDArray[np.int64],
    splits: SplitIndices,
) -> list[Duplicate]:
    """The pairs among the `readable` samples that are equal or look alike."""
    split_names = [*splits, "left out"]
    class_names = [printable(name) for name in source.classes]
    split_numbers = np.full(len(names), len(splits))
    for number, indices in reversed([*enumerate(splits.values())]):  # a sample of several splits: the first
        split_numbers[indices] = number
    # by split, so that each of several equal files is paired with one of train, if there is one
    ordered = readable[np.argsort(split_numbers[readable], kind="stable")]
    pairs = find_near_duplicates(signatures[ordered], [hashes[index] for index in ordered])
    duplicates = []
    for pair in pairs:
        a, b = int(ordered[pair.first]), int(ordered[pair.second])
        duplicate = Duplicate(
            files=(names[a], names[b]),
            splits=(split_names[split_numbers[a]], split_names[split_numbers[b]]),
            classes=(class_names[source.labels[a]], class_names[source.labels[b]]),
            distance=pair.distance,
            identical=hashes[a] == hashes[b],
        )
        duplicates.append(duplicate)
    return duplicates
