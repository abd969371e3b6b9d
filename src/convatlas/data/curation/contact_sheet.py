"""A contact sheet: training images of a data set by class, and what a recipe makes of some of them."""

import io
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure, SubFigure
from numpy.typing import NDArray

from convatlas.data.dataset import Dataset, Subset
from convatlas.data.images.decode import Pixels, UnreadableImage
from convatlas.data.images.resize import resize
from convatlas.data.loading.train_batches import TrainBatches
from convatlas.data.transforms import counter_rng
from convatlas.errors import UserError, printable

COLUMNS, ROWS, SHOWN = 8, 10, 4  # images a row, classes, images that the recipe's work is shown on
SIDE = 160  # pixels of the longer side of what is drawn
LONGEST = 24  # characters of a class's name
STYLE: Any = {"font.size": 9, "axes.titlesize": 8, "figure.dpi": 110, "text.parse_math": False}
Rows = list[tuple[str, list[Pixels]]]


def draw_contact_sheet(dataset: Dataset, seed: int = 0, training: TrainBatches | None = None, recipe: str = "") -> bytes:
    """Of up to 10 classes 8 images each. With `training`, whose split is the set's: how a few of them look in evaluation, and as they
    are drawn for training in 7 epochs. `recipe` is its title."""
    chosen = _chosen(dataset, seed)
    labels, few = list(chosen), [next(iter(indices)) for indices in chosen.values() if indices][:SHOWN]
    rows = [(_name(dataset, label), [_small(dataset, index) for index in chosen[label]]) for label in labels]
    what = f"{len(labels)} of {len(dataset.classes):,} classes" if len(labels) < len(dataset.classes) else f"{len(labels)} classes"
    blocks: list[tuple[str, Rows, Sequence[str]]] = [(f"{printable(dataset.name)}: training images, {what}", rows, [])]
    if training is not None and few:
        views = [
            (_name(dataset, int(dataset.splits["train"].labels[i])), pixels) for i, pixels in zip(few, _views(training, few), strict=True)
        ]
        blocks.append((recipe, views, ["in evaluation", *(f"epoch {n + 1}" for n in range(COLUMNS - 1))]))
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # characters that the font lacks are drawn as boxes
        return _drawn(blocks)


def _chosen(dataset: Dataset, seed: int) -> dict[int, list[int]]:
    """Of each class that is shown, images of the training split that can be read."""
    split, count = dataset.splits["train"], len(dataset.classes)
    order = counter_rng.permutation(seed, 0, len(split))
    spread = np.unique(np.linspace(0, count - 1, min(count, ROWS)).round().astype(int))
    return {int(label): list(islice(_readable(dataset, order[split.labels[order] == label]), COLUMNS)) for label in spread}


def _readable(dataset: Dataset, indices: NDArray[np.int64]) -> Iterator[int]:
    for index in indices.tolist():
        try:
            _small(dataset, index)
        except UnreadableImage:
            continue
        yield index


def _small(dataset: Dataset, index: int) -> Pixels:
    picture = dataset.splits["train"].images.image(index)
    scale = min(1.0, SIDE / max(picture.height, picture.width))
    size = max(1, round(picture.height * scale)), max(1, round(picture.width * scale))
    return resize(picture.decode(dataset.channels, size), size).permute(1, 2, 0).numpy()


def _views(training: TrainBatches, few: Sequence[int]) -> list[list[Pixels]]:
    """Of each image: as evaluation sees it, then as one epoch after another draws it."""
    images, labels = Subset(training.split.images, np.array(few)), training.split.labels[few]
    alone = replace(training, split=replace(training.split, images=images, labels=labels), batch=len(few))
    seen, _ = training.preprocessing.load_batch(images, np.arange(len(few)))
    columns = [seen]
    for epoch in range(COLUMNS - 1):
        batch = alone[epoch]
        if isinstance(batch, UserError):
            raise batch
        drawn = alone.augmented(batch.images, batch.indices, epoch)
        columns.append(drawn[torch.argsort(batch.indices)].float().round().clamp(0, 255).byte())
    return [[column[i].permute(1, 2, 0).numpy() for column in columns] for i in range(len(few))]


def _name(dataset: Dataset, label: int) -> str:
    name = printable(dataset.classes[label])
    return name if len(name) <= LONGEST else name[: LONGEST - 3] + "..."


def _drawn(blocks: Sequence[tuple[str, Rows, Sequence[str]]]) -> bytes:
    heights = [0.3 + 1.1 * len(rows) for _, rows, _ in blocks]
    figure = Figure(figsize=(1.1 * COLUMNS + 1.6, sum(heights)), layout="constrained")
    parts = figure.subfigures(len(blocks), 1, height_ratios=heights, squeeze=False)[:, 0]
    for part, (title, rows, heads) in zip(parts, blocks, strict=True):
        part.suptitle(title, x=0.01, ha="left", fontsize=10)
        _grid(part, rows, heads)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _grid(part: SubFigure, rows: Rows, heads: Sequence[str]) -> None:
    axes = part.subplots(len(rows), COLUMNS, squeeze=False)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    for line, (name, images) in zip(axes, rows, strict=True):
        line[0].set_ylabel(name, rotation=0, ha="right", va="center")
        for axis, image in zip(line, images, strict=False):
            axis.imshow(image.squeeze(2) if image.shape[2] == 1 else image, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    for axis, head in zip(axes[0], heads, strict=False):
        axis.set_title(head, pad=3)
