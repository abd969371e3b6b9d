"""What a data set holds: images by class and split, their sizes, the mean and spread of their colours."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from convatlas.data.dataset import ArrayImages, Dataset
from convatlas.data.images.decode import UnreadableImage
from convatlas.data.transforms import counter_rng
from convatlas.data.transforms.normalize import MAX_ARRAY_SAMPLES, MAX_FILE_SAMPLES, ChannelStatistics
from convatlas.data.transforms.preprocessing import Preprocessing
from convatlas.errors import printable


class ImageSize(NamedTuple):
    width: int
    height: int
    file: str


Counts = dict[str, dict[str, int]]  # of every class, images by split


@dataclass(frozen=True, kw_only=True)
class DatasetStatistics:
    """`sizes` are of `looked_at` images of all splits; `mean` and `std` by channel, from 0 to 1, of `measured` training images at
    `size`, (height, width)."""

    name: str
    n: int
    channels: int
    classes: Counts
    sizes: dict[str, ImageSize]
    looked_at: int
    mean: list[float]
    std: list[float]
    measured: int
    size: tuple[int, int]


def dataset_statistics(dataset: Dataset, preprocessing: Preprocessing) -> DatasetStatistics:
    """The same images for the same set, whatever the network."""
    labels = np.concatenate([split.labels for split in dataset.splits.values()])
    ends = np.cumsum([0, *(len(split) for split in dataset.splits.values())])
    parts = {part: np.arange(start, end) for part, start, end in zip(dataset.splits, ends, ends[1:], strict=False)}
    train = dataset.splits["train"]
    standardiser = ChannelStatistics().fit(train.images, preprocessing)
    sizes, names = _sizes(dataset)
    return DatasetStatistics(
        name=printable(dataset.name),
        n=len(labels),
        channels=dataset.channels,
        classes=class_counts(dataset.classes, labels, parts),
        sizes=size_range(sizes, names),
        looked_at=len(sizes),
        mean=[round(float(value), 4) for value in standardiser.mean.flatten()],
        std=[round(float(value), 4) for value in standardiser.std.flatten()],
        measured=min(len(train), MAX_ARRAY_SAMPLES if isinstance(train.images, ArrayImages) else MAX_FILE_SAMPLES),
        size=preprocessing.size,
    )


def class_counts(classes: Sequence[str], labels: NDArray[np.int64], parts: Mapping[str, NDArray[np.int64]]) -> Counts:
    """`parts` are indices into `labels`."""
    table = {part: np.bincount(labels[indices], minlength=len(classes)).tolist() for part, indices in parts.items()}
    return {printable(name): {part: column[label] for part, column in table.items()} for label, name in enumerate(classes)}


def size_range(sizes: NDArray[np.int64], names: Sequence[str]) -> dict[str, ImageSize]:
    """The smallest, the median and the largest image, by area. `sizes`: (n, 2), width and height."""
    if not len(sizes):
        return {}
    order = np.argsort(sizes.prod(axis=1), kind="stable")
    places = {"smallest": order[0], "median": order[len(order) // 2], "largest": order[-1]}
    return {what: ImageSize(int(sizes[place, 0]), int(sizes[place, 1]), names[place]) for what, place in places.items()}


def _sizes(dataset: Dataset) -> tuple[NDArray[np.int64], list[str]]:
    everything = [(split.images, index) for split in dataset.splits.values() for index in range(len(split))]
    sizes, names = [], []
    for place in np.sort(counter_rng.permutation(0, 0, len(everything))[:MAX_FILE_SAMPLES]):
        images, index = everything[place]
        try:
            picture = images.image(index)
        except UnreadableImage:
            continue
        sizes.append((picture.width, picture.height))
        names.append(printable(images.name(index)))
    return np.array(sizes, np.int64).reshape(-1, 2), names
