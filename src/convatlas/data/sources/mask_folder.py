"""A folder of images and their masks: PATH/{train,val,test}/{images,masks}, or PATH/{images,masks}.

A mask has the name of its image, ending in .png. A folder `instances` beside them holds the ids of instances,
of up to 16 bits, 0 for what is none; without a folder `masks`, every pixel of an instance is an object.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from convatlas.data.sources import content_hash
from convatlas.data.sources.files import FileImages, detect_channels
from convatlas.data.sources.mask_classes import MaskClasses, numbered_classes, read_mask_classes
from convatlas.data.sources.mask_files import OBJECT, MaskFiles, MaskSummary, summarize_masks
from convatlas.data.sources.passed_over import PassedOver
from convatlas.data.sources.source import RawDataset
from convatlas.data.sources.split_names import split_name
from convatlas.data.sources.walk import list_images
from convatlas.errors import UserError, printable
from convatlas.names import encodable

IMAGES, MASKS, INSTANCES = "images", "masks", "instances"
NO_IMAGE = "a mask without an image"
INTERPOLATED = "ids occur only in thin rings between others: was the mask resized with interpolation?"
OBJECTS = MaskClasses(names=("background", "object"), ids=(0, OBJECT))


class _Sample(NamedTuple):
    """An image, its mask and its instances, relative to the folder; empty where there is none."""

    image: str
    mask: str
    instances: str


def is_mask_folder(path: Path) -> bool:
    """Whether a folder, or one of its splits, holds images and their masks."""
    return any(True for _ in _parts(path))


def open_mask_folder(path: Path) -> RawDataset:
    """Open the images of a folder with their masks. Masks that cannot be used are among the data set's
    `broken` samples.

    Raises UserError for two folders of one split, and for classes that are unclear.
    """
    samples: list[_Sample] = []
    splits: dict[str, NDArray[np.int64]] = {}
    folders: dict[str, str] = {}
    passed_over: list[PassedOver] = []
    notes = []
    for prefix in _parts(path):
        split = split_name(prefix) or ""
        if split in folders:
            raise UserError(
                f"{printable(path)} holds {printable(folders[split])} and {printable(prefix)}, which are "
                f"both the {split} split: put all of their images into one of them"
            )
        folders[split] = prefix
        if split and prefix != split:
            notes.append(f"{prefix} was taken as the {split} split")
        start = len(samples)
        of_part, others = _samples(path, f"{prefix}/" if prefix else "")
        samples += of_part
        passed_over += others
        if split:
            splits[split] = np.arange(start, len(samples))
    if any(sample.mask for sample in samples):  # then instances alone do not say the classes
        samples = [sample if sample.mask else sample._replace(instances="") for sample in samples]
    images, masks, instances = (
        ([*column] for column in zip(*samples, strict=True)) if samples else ([], [], [])
    )
    summaries = summarize_masks(path, images, masks, instances)
    broken = {index: summary.problem for index, summary in enumerate(summaries) if summary.problem}
    usable = [summary for index, summary in enumerate(summaries) if index not in broken]
    classes = _classes(path, usable, has_masks=any(masks))
    broken |= _unknown_ids(path, samples, summaries, classes)
    counts = _pixel_counts(summaries, classes)
    files = FileImages(path, images)
    return RawDataset(
        name=encodable(f"folder:{path}"),
        classes=tuple(map(encodable, classes.names)),
        channels=detect_channels(files),
        images=files,
        labels=_dominant_classes(counts),
        content_hashes=content_hash.hash_files(path, images),
        splits=splits,
        notes=tuple(map(printable, notes)),
        passed_over=tuple(passed_over),
        hint="expected PATH/train/images and PATH/train/masks, with at least two classes in the masks",
        root=path,
        masks=MaskFiles(path, masks, instances, classes, counts, tuple(s.hash for s in summaries)),
        broken=broken,
        mask_notes={
            index: f"{samples[index].mask}: {INTERPOLATED}"
            for index, summary in enumerate(summaries)
            if summary.interpolated and index not in broken
        },
    )


def _parts(path: Path) -> Iterator[str]:
    """The folders that hold images and masks: those of splits, else '' for the folder itself."""
    try:
        names = sorted(entry.name for entry in path.iterdir() if split_name(entry.name))
    except OSError:
        return
    splits = [name for name in names if _holds_masks(path / name)]
    yield from splits or ([""] if _holds_masks(path) else [])


def _holds_masks(folder: Path) -> bool:
    return (folder / IMAGES).is_dir() and any((folder / name).is_dir() for name in (MASKS, INSTANCES))


def _samples(path: Path, prefix: str) -> tuple[list[_Sample], list[PassedOver]]:
    """The images of a part of the folder, and what is passed over in it."""
    listings: dict[str, dict[str, str]] = {}  # the files of each kind by their names without the ending
    passed_over = []
    for kind in (IMAGES, MASKS, INSTANCES):
        folder = f"{prefix}{kind}"
        if not (path / folder).is_dir():
            listings[kind] = {}
            continue
        listing = list_images(path / folder)
        passed_over += [entry._replace(name=f"{folder}/{entry.name}") for entry in listing.passed_over]
        listings[kind] = {_stem(name): f"{folder}/{name}" for name in listing.images}
        if kind == IMAGES and len(listings[kind]) < len(listing.images):
            first = next(name for name in listing.images if listings[kind][_stem(name)] != f"{folder}/{name}")
            other = listings[kind][_stem(first)]
            raise UserError(
                f"{printable(path / folder / first)} and {printable(path / other)} would have the same mask: "
                "rename one of them"
            )
    samples = [
        _Sample(image, listings[MASKS].get(stem, ""), listings[INSTANCES].get(stem, ""))
        for stem, image in listings[IMAGES].items()
    ]
    for kind in (MASKS, INSTANCES):
        alone = [name for stem, name in listings[kind].items() if stem not in listings[IMAGES]]
        passed_over += [PassedOver(name, NO_IMAGE) for name in alone]
    return samples, passed_over


def _stem(name: str) -> str:
    folder, slash, file = name.rpartition("/")
    return folder + slash + file.rpartition(".")[0]


def _classes(path: Path, summaries: Sequence[MaskSummary], has_masks: bool) -> MaskClasses:
    """Raises UserError for colours that no file names, and for a mixture of numbers and colours."""
    classes = read_mask_classes(path)
    if not has_masks:
        return classes or OBJECTS
    colored = {summary.has_colors for summary in summaries}
    if len(colored) > 1:
        raise UserError(
            f"some masks of {printable(path)} have colours and others numbers: use one of the two"
        )
    if True in colored and (classes is None or not classes.are_colors):
        raise UserError(
            f"the masks of {printable(path)} have colours: name the class of each in "
            f"{printable(path / 'classes.json')}, "
            'such as {"background": [0, 0, 0], "cell": [255, 0, 0]}'
        )
    if classes is not None:
        if classes.are_colors and False in colored:
            raise UserError(
                f"{printable(path / 'classes.json')} names colours, and the masks have numbers: name those, "
                'such as {"0": "background", "1": "cell"}'
            )
        return classes
    return numbered_classes({id for summary in summaries for id in summary.counts}, printable(path))


def _unknown_ids(
    path: Path, samples: Sequence[_Sample], summaries: Sequence[MaskSummary], classes: MaskClasses
) -> dict[int, str]:
    """Why masks with ids of no class cannot be used, by their index."""
    problems = {}
    for index, (sample, summary) in enumerate(zip(samples, summaries, strict=True)):
        unknown = [] if summary.problem else classes.unknown(summary.counts)
        if unknown:
            more = f", and {len(unknown) - 1} more ids," if len(unknown) > 1 else ""
            hint = f" ({INTERPOLATED})" if summary.interpolated else ""
            reason = f"{classes.describe(unknown[0])}{more} is none of the classes'{hint}"
            problems[index] = f"{path / sample.mask}: {reason}"
    return problems


def _pixel_counts(summaries: Sequence[MaskSummary], classes: MaskClasses) -> NDArray[np.int64]:
    """(n, classes)."""
    counts = [[summary.counts.get(id, 0) for id in classes.ids] for summary in summaries]
    return np.array(counts, np.int64).reshape(len(summaries), len(classes.ids))


def _dominant_classes(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """(n,): the class with most pixels in each mask, beside the one with most pixels of all; by these, images
    are held out from every class."""
    if not counts.size:
        return np.zeros(len(counts), np.int64)
    background = counts.sum(axis=0).argmax()
    foreground = counts.copy()
    foreground[:, background] = 0
    labels: NDArray[np.int64] = np.where(foreground.any(axis=1), foreground.argmax(axis=1), background)
    return labels
