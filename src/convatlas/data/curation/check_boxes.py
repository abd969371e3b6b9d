"""Check the boxes of a data set: can every annotation be used and every image be read, is it in one split?"""

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from convatlas.data.curation.box_statistics import BoxStatistics, box_statistics
from convatlas.data.images.unreadable import UnreadableImage
from convatlas.data.sources import content_hash
from convatlas.data.sources.box_annotations import AnnotatedImage
from convatlas.data.sources.box_folder import BoxDataset
from convatlas.data.sources.source import ALL
from convatlas.errors import printable
from convatlas.names import escape_name
from convatlas.runtime.distributed.ranks import SINGLE_PROCESS, Ranks
from convatlas.runtime.num_threads import usable_cores
from convatlas.runtime.progress import track

MAX_NAMED = 3  # classes in a note


class Finding(NamedTuple):
    """A file, or a position in one, and what there is to say about it."""

    file: str
    text: str


@dataclass(frozen=True, kw_only=True)
class BoxReport:
    """The report of `check_boxes`. `bad` are annotations that cannot be used and images that cannot be read;
    `training_error` says why no detector can be trained."""

    statistics: BoxStatistics
    bad: list[Finding]
    notes: list[Finding]
    split_notes: list[str]
    training_error: str | None

    @property
    def ok(self) -> bool:
        return not self.bad and self.training_error is None


def check_boxes(dataset: BoxDataset, workers: int | None = None, ranks: Ranks = SINGLE_PROCESS) -> BoxReport:
    """Read every image with `workers` threads (default: one per core), and look at all boxes. `dataset` was
    opened with on_bad="skip". The ranks share the images, and each gets the report."""
    images = [(split, image) for split, part in dataset.splits.items() for image in part.images]
    own = images[ranks.rank :: ranks.world_size]
    with ThreadPoolExecutor(workers or max(1, usable_cores() // ranks.local_world_size)) as pool:
        problems = pool.map(lambda item: _problem(item[1]), own)
        reasons = list(track(problems, len(own), "reading images with boxes"))
    shares = ranks.all_gather(reasons)
    bad = [
        Finding(entry.position, entry.reason) for part in dataset.splits.values() for entry in part.skipped
    ]
    for index, (_, image) in enumerate(images):
        reason = shares[index % ranks.world_size][index // ranks.world_size]
        if reason:
            bad.append(Finding(escape_name(image.file), reason))
    statistics = box_statistics(dataset)
    return BoxReport(
        statistics=statistics,
        bad=bad,
        notes=[*_repeated_boxes(dataset, images), *_equal_images(images)],
        split_notes=_split_notes(statistics),
        training_error=_training_error(dataset, statistics),
    )


def _problem(image: AnnotatedImage) -> str:
    """Why an image cannot be used; "" if it can."""
    try:
        image.decode()
    except UnreadableImage as error:
        return error.reason
    return ""


def _repeated_boxes(dataset: BoxDataset, images: Sequence[tuple[str, AnnotatedImage]]) -> list[Finding]:
    """Images in which an object is annotated twice: a detector's second box for it would count as right."""
    notes = []
    for _, image in images:
        objects = Counter(zip(image.labels.tolist(), map(tuple, image.boxes.tolist()), strict=True))
        for (label, box), count in objects.items():
            if count > 1:
                shown = ", ".join(f"{value:g}" for value in box)
                text = f"{count} objects of class {printable(dataset.classes[label])} have the box ({shown})"
                notes.append(Finding(escape_name(image.file), text))
    return notes


def _equal_images(images: Sequence[tuple[str, AnnotatedImage]]) -> list[Finding]:
    """Images with the bytes of one of an earlier split."""
    hashes = content_hash.hash_files(Path(), [str(image.file.absolute()) for _, image in images])
    first: dict[bytes, tuple[str, AnnotatedImage]] = {}
    notes = []
    for digest, (split, image) in zip(hashes, images, strict=True):
        other_split, other = first.setdefault(digest, (split, image))
        if other_split != split:
            text = f"in {split}, and with the same bytes in {other_split}: {escape_name(other.file)}"
            notes.append(Finding(escape_name(image.file), text))
    return notes


def _split_notes(statistics: BoxStatistics) -> list[str]:
    notes = []
    for split, count in statistics.without_objects.items():
        if count:
            notes.append(f"{count:,} images of {split} show no object: they are background")
    for split, count in statistics.ignored.items():
        if count:
            notes.append(
                f"{count:,} objects of {split} are crowds or difficult: neither targets nor background"
            )
    for split in statistics.images:
        missing = [name for name, counts in statistics.classes.items() if not counts[split]]
        if missing and split != "train":
            more = f" and {len(missing) - MAX_NAMED:,} more" if len(missing) > MAX_NAMED else ""
            notes.append(f"{split} has no objects of {', '.join(missing[:MAX_NAMED])}{more}")
    return notes


def _training_error(dataset: BoxDataset, statistics: BoxStatistics) -> str | None:
    """Why no detector can be trained."""
    split = next((name for name in ("train", ALL) if name in statistics.images), None)
    if split is None:
        return f"{printable(dataset.name)} has {' and '.join(statistics.images)} but no train images"
    missing = [name for name, counts in statistics.classes.items() if not counts[split]]
    if missing:
        return f"{split} has no object of class {missing[0]}: add some, or remove the class"
    return None if np.any([*statistics.objects.values()]) else "there is no object"
