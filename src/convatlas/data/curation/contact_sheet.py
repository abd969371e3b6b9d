"""A contact sheet: training images of a data set by class, and a recipe's augmentations of a few of them."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure, SubFigure
from numpy.typing import NDArray

from convatlas.data.dataset import Dataset
from convatlas.data.images.decode import Pixels, UnreadableImage
from convatlas.data.images.deep_pixels import ValueRange
from convatlas.data.images.resize import resize
from convatlas.data.loading.train_batches import TrainBatches
from convatlas.data.transforms import counter_rng
from convatlas.data.transforms.value_range import dataset_value_range
from convatlas.errors import UserError, printable
from convatlas.plotting import figure_png, plot_style

NUM_COLUMNS = 8  # images a row
MAX_CLASSES = 10  # one row each
MAX_AUGMENTED = 4  # images whose augmentations are shown, one row each
MAX_SIDE = 160  # pixels of an image's longer side
MAX_NAME_LENGTH = 24  # characters of a class name


class ImageRow(NamedTuple):
    label: str
    images: list[Pixels]


class ImageGrid(NamedTuple):
    title: str
    rows: list[ImageRow]
    column_titles: Sequence[str]


def draw_contact_sheet(
    dataset: Dataset, seed: int = 0, training: TrainBatches | None = None, recipe: str = ""
) -> bytes:
    """Draw 8 training images of each of up to 10 classes, as a PNG.

    With `training`, whose split must be the data set's train split, a second part shows one image of each of
    up to 4 classes: in evaluation, and augmented for training in 7 epochs. `recipe` is the title of that
    part.
    """
    value_range = dataset_value_range(dataset)
    indices_by_label = _choose_images(dataset, seed, value_range)
    rows = [
        ImageRow(
            _class_name(dataset, label), [_small_image(dataset, index, value_range) for index in indices]
        )
        for label, indices in indices_by_label.items()
    ]
    total = f" of {len(dataset.classes):,}" if len(rows) < len(dataset.classes) else ""
    title = f"{printable(dataset.name)}: training images, {len(rows)}{total} classes"
    grids = [ImageGrid(title, rows, [])]
    augmented = [indices[0] for indices in indices_by_label.values() if indices][:MAX_AUGMENTED]
    if training is not None and augmented:
        labels = dataset.splits["train"].labels[augmented]
        rows = [
            ImageRow(_class_name(dataset, int(label)), images)
            for label, images in zip(labels, _augmentations(training, augmented), strict=True)
        ]
        epochs = [f"epoch {epoch}" for epoch in range(1, NUM_COLUMNS)]
        grids.append(ImageGrid(recipe, rows, ["in evaluation", *epochs]))
    with plot_style(parse_math=False):
        return _draw_png(grids)


def _choose_images(dataset: Dataset, seed: int, value_range: ValueRange | None) -> dict[int, list[int]]:
    """For each class on the sheet, the indices of readable images of the training split."""
    split = dataset.splits["train"]
    num_classes = len(dataset.classes)
    order = counter_rng.permutation(seed, 0, len(split))
    labels = np.unique(np.linspace(0, num_classes - 1, min(num_classes, MAX_CLASSES)).round().astype(int))
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
    return resize(image.decode(dataset.channels, size, value_range), size).permute(1, 2, 0).numpy()


def _augmentations(training: TrainBatches, indices: Sequence[int]) -> list[list[Pixels]]:
    """For each image: as in evaluation, then as in each of the first epochs of training."""
    split = training.split.subset(np.array(indices))
    one_batch = replace(training, split=split, batch_size=len(split))
    images, _ = training.preprocessing.load_batch(split.images, np.arange(len(split)))
    columns = [images]
    for epoch in range(NUM_COLUMNS - 1):
        batch = one_batch[epoch]
        if isinstance(batch, UserError):
            raise batch
        images = one_batch.augmented(batch.images, batch.indices, epoch)
        columns.append(images[torch.argsort(batch.indices)].float().round().clamp(0, 255).byte())
    return [[column[i].permute(1, 2, 0).numpy() for column in columns] for i in range(len(split))]


def _class_name(dataset: Dataset, label: int) -> str:
    name = printable(dataset.classes[label])
    return name if len(name) <= MAX_NAME_LENGTH else name[: MAX_NAME_LENGTH - 3] + "..."


def _draw_png(grids: Sequence[ImageGrid]) -> bytes:
    heights = [0.3 + 1.1 * len(grid.rows) for grid in grids]  # inches
    figure = Figure(figsize=(1.1 * NUM_COLUMNS + 1.6, sum(heights)), layout="constrained")
    subfigures = figure.subfigures(len(grids), 1, height_ratios=heights, squeeze=False)[:, 0]
    for subfigure, grid in zip(subfigures, grids, strict=True):
        subfigure.suptitle(grid.title, x=0.01, ha="left", fontsize=10)
        _draw_grid(subfigure, grid)
    return figure_png(figure)


def _draw_grid(subfigure: SubFigure, grid: ImageGrid) -> None:
    all_axes = subfigure.subplots(len(grid.rows), NUM_COLUMNS, squeeze=False)
    for axes in all_axes.flat:
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    for row_axes, row in zip(all_axes, grid.rows, strict=True):
        row_axes[0].set_ylabel(row.label, rotation=0, ha="right", va="center")
        for axes, image in zip(row_axes, row.images, strict=False):
            pixels = image.squeeze(2) if image.shape[2] == 1 else image
            axes.imshow(pixels, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    for axes, title in zip(all_axes[0], grid.column_titles, strict=False):
        axes.set_title(title, pad=3)
