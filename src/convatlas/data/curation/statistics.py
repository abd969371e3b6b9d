"""Statistics of a data set: images by class and split, image sizes, mean and deviation of the colours."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from convatlas.data.dataset import ArrayImages, Dataset, Split
from convatlas.data.images.unreadable import UnreadableImage
from convatlas.data.transforms import counter_rng
from convatlas.data.transforms.normalize import MAX_ARRAY_SAMPLES, MAX_FILE_SAMPLES, ChannelMeanStd
from convatlas.data.transforms.preprocessing import Preprocessing
from convatlas.errors import printable
from convatlas.names import escape_name


class ImageSize(NamedTuple):
    width: int
    height: int
    file: str


Counts = dict[str, dict[str, int]]  # for each class, the number of images by split


@dataclass(frozen=True, kw_only=True)
class DatasetStatistics:
    """The statistics of a data set.

    `sizes` are of `sizes_sampled` images of all splits. `mean` and `std` are by channel, from 0 to 1, of
    `pixels_sampled` training images at `size` (height, width).
    """

    name: str
    n: int
    channels: int
    classes: Counts
    sizes: dict[str, ImageSize]
    sizes_sampled: int
    mean: list[float]
    std: list[float]
    pixels_sampled: int
    size: tuple[int, int]


def dataset_statistics(dataset: Dataset, preprocessing: Preprocessing) -> DatasetStatistics:
    """Measure a data set. The sampled images depend on the data set alone, not on the preprocessing."""
    train = dataset.splits["train"]
    max_samples = MAX_ARRAY_SAMPLES if isinstance(train.images, ArrayImages) else MAX_FILE_SAMPLES
    normalizer = ChannelMeanStd().fit(train.images, preprocessing)
    sizes, names = _sample_sizes(dataset)
    return DatasetStatistics(
        name=printable(dataset.name),
        n=sum(map(len, dataset.splits.values())),
        channels=dataset.channels,
        classes=class_counts(dataset.classes, dataset.splits),
        sizes=size_range(sizes, names),
        sizes_sampled=len(sizes),
        mean=[round(float(value), 4) for value in normalizer.mean.flatten()],
        std=[round(float(value), 4) for value in normalizer.std.flatten()],
        pixels_sampled=min(len(train), max_samples),
        size=preprocessing.input_size,
    )


def class_counts(classes: Sequence[str], splits: Mapping[str, Split]) -> Counts:
    """Count the images of each class, or that show it, by split."""
    counts_by_split = {name: split.images_by_class(len(classes)).tolist() for name, split in splits.items()}
    return {
        printable(name): {split: counts[label] for split, counts in counts_by_split.items()}
        for label, name in enumerate(classes)
    }


def size_range(sizes: NDArray[np.int64], names: Sequence[str]) -> dict[str, ImageSize]:
    """The smallest, the median and the largest image, by area. `sizes`: (n, 2), width and height."""
    if not len(sizes):
        return {}
    order = np.argsort(sizes.prod(axis=1), kind="stable")
    indices = {"smallest": order[0], "median": order[len(order) // 2], "largest": order[-1]}
    return {
        rank: ImageSize(int(sizes[index, 0]), int(sizes[index, 1]), names[index])
        for rank, index in indices.items()
    }


def _sample_sizes(dataset: Dataset) -> tuple[NDArray[np.int64], list[str]]:
    """Sample images of all splits that can be read: their sizes (n, 2), width and height, and their names."""
    samples = [(split.images, index) for split in dataset.splits.values() for index in range(len(split))]
    sizes = []
    names = []
    for number in np.sort(counter_rng.permutation(0, 0, len(samples))[:MAX_FILE_SAMPLES]):
        images, index = samples[number]
        try:
            image = images.image(index)
        except UnreadableImage:
            continue
        sizes.append((image.width, image.height))
        names.append(escape_name(images.name(index)))
    return np.array(sizes, np.int64).reshape(-1, 2), names
