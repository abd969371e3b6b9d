"""A contact sheet: training images of a data set by class, and a recipe's augmentations of a few of them."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray

from convatlas.data.dataset import Dataset
from convatlas.data.images.decode import Pixels
from convatlas.data.images.deep_pixels import ValueRange
from convatlas.data.images.resize import resize
from convatlas.data.images.unreadable import UnreadableImage
from convatlas.data.loading.train_batches import TrainBatches
from convatlas.data.mask_pictures import overlay
from convatlas.data.transforms import counter_rng
from convatlas.data.transforms.random_tile import nearest
from convatlas.data.transforms.value_range import dataset_value_range
from convatlas.errors import UserError, printable
from convatlas.plotting import Tile, TileRow, draw_tiles, figure_png, plot_style, stack_pngs

NUM_COLUMNS = 8  # images a row
MAX_CLASSES = 10  # one row each
MAX_AUGMENTED = 4  # images whose augmentations are shown, one row each
MAX_SIDE = 160  # pixels of an image's longer side
MAX_NAME_LENGTH = 24  # characters of a class name


def draw_contact_sheet(
    dataset: Dataset, seed: int = 0, training: TrainBatches | None = None, recipe: str = ""
) -> bytes:
    """Draw 8 training images of each of up to 10 classes, as a PNG, with their masks over them.

    With `training`, whose split must be the data set's train split, a second part shows one image of each of
    up to 4 classes: in evaluation, and augmented for training in 7 epochs. `recipe` is the title of that
    part.
    """
    value_range = dataset_value_range(dataset)
    indices_by_label = _choose_images(dataset, seed, value_range)
    counts = dataset.splits["train"].images_by_class(len(dataset.classes))
    rows = [
        TileRow(
            [Tile(_small_image(dataset, index, value_range)) for index in indices],
            f"{short_name(dataset.classes[label])}\n"
            f"{counts[label]:,} {'image' if counts[label] == 1 else 'images'}",
        )
        for label, indices in indices_by_label.items()
    ]
    total = f" of {len(dataset.classes):,}" if len(rows) < len(dataset.classes) else ""
    title = f"{printable(dataset.name)}: training images, {len(rows)}{total} classes"
    with plot_style(parse_math=False):
        sheets = [figure_png(draw_tiles(rows, title))]
        augmented = [indices[0] for indices in indices_by_label.values() if indices][:MAX_AUGMENTED]
        if training is not None and augmented:
            labels = dataset.splits["train"].labels[augmented]
            titles = ["in evaluation", *(f"epoch {epoch}" for epoch in range(1, NUM_COLUMNS))]
            rows = [
                TileRow(
                    [
                        Tile(image, text if number == 0 else "")
                        for image, text in zip(images, titles, strict=True)
                    ],
                    short_name(dataset.classes[int(label)]),
                )
                for number, (label, images) in enumerate(
                    zip(labels, _augmentations(training, augmented), strict=True)
                )
            ]
            sheets.append(figure_png(draw_tiles(rows, recipe)))
    return stack_pngs(sheets)


def _choose_images(dataset: Dataset, seed: int, value_range: ValueRange | None) -> dict[int, list[int]]:
    """For each class on the sheet, the indices of readable images of the training split. With masks, a class
    that is no image's label, such as the background, is not on it."""
    split = dataset.splits["train"]
    order = counter_rng.permutation(seed, 0, len(split))
    classes = np.arange(len(dataset.classes)) if split.masks is None else np.unique(split.labels)
    rows = np.unique(np.linspace(0, len(classes) - 1, min(len(classes), MAX_CLASSES)).round().astype(int))
    labels = classes[rows]
    return {
        int(label): list(
            islice(_readable(dataset, order[split.labels[order] == label], value_range), NUM_COLUMNS)
        )
        for label in labels
    }


def _readable(dataset: Dataset, indices: NDArray[np.int64], value_range: ValueRange | None) -> Iterator[int]:
    for index in indices.tolist():
        try:
            _small_image(dataset, index, value_range)
        except UnreadableImage:
            continue
        yield index


def _small_image(dataset: Dataset, index: int, value_range: ValueRange | None) -> Pixels:
    image = dataset.splits["train"].images.image(index)
    scale = min(1.0, MAX_SIDE / max(image.height, image.width))
    size = max(1, round(image.height * scale)), max(1, round(image.width * scale))
    pixels = resize(image.decode(dataset.channels, size, value_range), size).permute(1, 2, 0).numpy()
    masks = dataset.splits["train"].masks
    if masks is None:
        return pixels
    background = int(dataset.splits["train"].class_sizes(len(dataset.classes)).argmax())
    return overlay(pixels, nearest(masks.mask(index).classes, size), background)


def _augmentations(training: TrainBatches, indices: Sequence[int]) -> list[list[Pixels]]:
    """For each image: as in evaluation, then as in each of the first epochs of training."""
    samples = training.samples.subset(np.array(indices))
    one_batch = replace(training, samples=samples, batch_size=len(indices))
    images = samples.load_plain(np.arange(len(indices))).images
    columns = [images]
    for epoch in range(NUM_COLUMNS - 1):
        batch = one_batch[epoch]
        if isinstance(batch, UserError):
            raise batch
        images = one_batch.augmented(batch.images, batch.indices, epoch)
        columns.append(images[torch.argsort(batch.indices)].float().round().clamp(0, 255).byte())
    return [[column[i].permute(1, 2, 0).numpy() for column in columns] for i in range(len(indices))]


def short_name(name: str) -> str:
    """A class's name that fits beside its images."""
    shown = printable(name)
    return shown if len(shown) <= MAX_NAME_LENGTH else shown[: MAX_NAME_LENGTH - 3] + "..."
