"""Count and measure the boxes of a data set, and draw some of its images with them."""

from dataclasses import dataclass

import numpy as np

from convatlas.data.box_pictures import class_color, draw_boxes
from convatlas.data.curation.contact_sheet import MAX_CLASSES, MAX_SIDE, NUM_COLUMNS, short_name
from convatlas.data.curation.statistics import Counts, ImageSize, size_range
from convatlas.data.images.decode import Pixels
from convatlas.data.images.resize import resize
from convatlas.data.images.unreadable import UnreadableImage
from convatlas.data.sources.box_annotations import AnnotatedImage
from convatlas.data.sources.box_folder import BoxDataset
from convatlas.data.transforms import counter_rng
from convatlas.errors import printable
from convatlas.names import escape_name
from convatlas.plotting import Tile, TileRow, draw_tiles, figure_png, plot_style


@dataclass(frozen=True, kw_only=True)
class BoxStatistics:
    """Counts by split: of images, of those without objects, of objects, also by class, and of ignored ones.

    `sizes` are those of images, as their annotations say; `box_sizes` the smallest, median and largest
    object's box by area, width and height in pixels.
    """

    images: dict[str, int]
    without_objects: dict[str, int]
    objects: dict[str, int]
    classes: Counts
    ignored: dict[str, int]
    sizes: dict[str, ImageSize]
    box_sizes: dict[str, tuple[float, float]]


def box_statistics(dataset: BoxDataset) -> BoxStatistics:
    """Count and measure all boxes."""
    splits = {split: part.images for split, part in dataset.splits.items()}
    labels = {
        split: np.concatenate([np.zeros(0, np.int64), *(image.labels[~image.ignored] for image in images)])
        for split, images in splits.items()
    }
    counts = {split: np.bincount(values, minlength=len(dataset.classes)) for split, values in labels.items()}
    images = [image for part in splits.values() for image in part]
    sizes = np.array([(image.width, image.height) for image in images], np.int64).reshape(-1, 2)
    boxes = np.concatenate([np.zeros((0, 4)), *(image.boxes[~image.ignored] for image in images)])
    sides = boxes[:, 2:] - boxes[:, :2]
    order = np.argsort(sides.prod(axis=1), kind="stable")
    ranks = {"smallest": 0, "median": len(order) // 2, "largest": -1} if len(order) else {}
    return BoxStatistics(
        images={split: len(part) for split, part in splits.items()},
        without_objects={
            split: sum(not len(image.boxes) for image in part) for split, part in splits.items()
        },
        objects={split: len(values) for split, values in labels.items()},
        classes={
            printable(name): {split: int(values[label]) for split, values in counts.items()}
            for label, name in enumerate(dataset.classes)
        },
        ignored={split: sum(int(image.ignored.sum()) for image in part) for split, part in splits.items()},
        sizes=size_range(sizes, [escape_name(image.file) for image in images]),
        box_sizes={
            rank: (float(sides[order[place], 0]), float(sides[order[place], 1]))
            for rank, place in ranks.items()
        },
    )


def draw_box_sheet(dataset: BoxDataset, seed: int = 0) -> bytes:
    """Draw 8 training images that show each of up to 10 classes, with all of their boxes, as a PNG."""
    split = "train" if "train" in dataset.splits else next(iter(dataset.splits))
    images = dataset.splits[split].images
    counts = box_statistics(dataset).classes
    classes = len(dataset.classes)
    rows = []
    for label in np.unique(np.linspace(0, classes - 1, min(classes, MAX_CLASSES)).round().astype(int)):
        name = dataset.classes[label]
        tiles: list[Tile] = []
        for index in counter_rng.permutation(seed, 0, len(images)):
            if len(tiles) < NUM_COLUMNS and label in images[index].labels:
                picture = _small_picture(images[index])
                tiles += [Tile(picture)] if picture is not None else []
        objects = counts[printable(name)][split]
        rows.append(TileRow(tiles, f"{short_name(name)}\n{objects:,} object{'s' * (objects != 1)}"))
    total = f" of {classes:,}" if len(rows) < classes else ""
    title = f"{printable(dataset.name)}: {split} images with boxes, {len(rows)}{total} classes"
    with plot_style(parse_math=False):
        return figure_png(draw_tiles(rows, title))


def _small_picture(image: AnnotatedImage) -> Pixels | None:
    """An image with its boxes in the colours of their classes, ignored ones in grey; None for one that cannot
    be read."""
    try:
        pixels = image.decode()
    except UnreadableImage:
        return None
    scale = min(1.0, MAX_SIDE / max(image.height, image.width))
    size = max(1, round(image.height * scale)), max(1, round(image.width * scale))
    small = resize(pixels, size).permute(1, 2, 0).numpy()
    colors = [
        (128, 128, 128) if ignored else class_color(int(label))
        for label, ignored in zip(image.labels, image.ignored, strict=True)
    ]
    return draw_boxes(small, image.boxes * scale, [""] * len(colors), colors)
