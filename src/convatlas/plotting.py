"""The style of every figure, grids of images in equal cells, scales, and figures as PNG files in memory."""

import io
import textwrap
import warnings
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]  # (height, width, 3), or one channel, or no third axis
CELL_SIDE = 112  # pixels of an image in a grid
CELL_GAP = 8  # pixels
TEXT_HEIGHT = 14  # pixels of a line of small text
CHARACTER_WIDTH = 6.6  # pixels of small text, on average
MAX_LABEL_LINES = 3
LOG_RATIO = 20  # of the largest value to the median, from which on a scale is logarithmic
_FONT_WARNINGS = "Glyph .* missing|Matplotlib currently does not support"


def plot_style(title_size: int = 8, parse_math: bool = True) -> AbstractContextManager[None]:
    """Matplotlib's settings, as a context manager around everything that builds and saves a figure.

    `title_size` is in points. Without `parse_math` a dollar sign stands for itself: use it where titles
    contain names of files or classes.
    """
    style: Any = {
        "font.size": 9,
        "axes.titlesize": title_size,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "figure.dpi": 110,
        "text.parse_math": parse_math,
    }
    return matplotlib.rc_context(style)


def figure_png(figure: Figure) -> bytes:
    """Render a figure as a PNG. Characters that the font lacks are drawn as boxes, without a warning."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", _FONT_WARNINGS)
        figure.savefig(buffer, format="png")
    return buffer.getvalue()


def stack_pngs(images: Sequence[bytes]) -> bytes:
    """One PNG with the others below each other, on white."""
    pictures = [Image.open(io.BytesIO(image)).convert("RGB") for image in images]
    size = (max(picture.width for picture in pictures), sum(picture.height for picture in pictures))
    canvas = Image.new("RGB", size, "white")
    top = 0
    for picture in pictures:
        canvas.paste(picture, (0, top))
        top += picture.height
    return image_png(np.asarray(canvas))


def image_png(pixels: NDArray[np.uint8]) -> bytes:
    """Encode an RGB image (height, width, 3) as a PNG."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


class Tile(NamedTuple):
    """An image of a grid, and what stands above it."""

    image: Pixels
    title: str = ""


class TileRow(NamedTuple):
    """A row of a grid, and what stands to its left."""

    tiles: Sequence[Tile]
    label: str = ""


def draw_tiles(rows: Sequence[TileRow], title: str = "", side: int = CELL_SIDE, note: str = "") -> Figure:
    """Images in cells of one size, pixel by pixel: small images are enlarged by whole factors, so that their
    pixels stay visible. Lines of a label end at its newlines, titles are wrapped. `side` of a cell, in
    pixels, about."""
    columns = max(len(row.tiles) for row in rows)
    side = _cell_side([max(tile.image.shape[:2]) for row in rows for tile in row.tiles], side)
    images = [[fit_tile(tile.image, side) for tile in row.tiles] for row in rows]
    cell_height = max((image.shape[0] for row in images for image in row), default=side)
    cell_width = max([side // 2, *(image.shape[1] for row in images for image in row)])
    titles = [[_wrap(tile.title, cell_width) for tile in row.tiles] for row in rows]
    title_lines = [max((text.count("\n") + bool(text) for text in texts), default=0) for texts in titles]
    labels = [row.label.split("\n") for row in rows]
    label_width = max([round(CHARACTER_WIDTH * len(line)) for lines in labels for line in lines], default=0)
    left = label_width + 2 * CELL_GAP if label_width else CELL_GAP
    heading_lines = [line for line in (title, note) if line]
    heading_width = max([round(1.1 * CHARACTER_WIDTH * len(line)) for line in heading_lines], default=0)
    width = max(left + columns * (cell_width + CELL_GAP), heading_width + 2 * CELL_GAP)
    top = CELL_GAP + (TEXT_HEIGHT + 6) * len(heading_lines)
    heights = [cell_height + CELL_GAP + (TEXT_HEIGHT * lines + 2 if lines else 0) for lines in title_lines]
    height = top + sum(heights)
    figure = Figure()
    figure.set_size_inches(width / figure.dpi, height / figure.dpi)

    def write(x: float, y: float, text: str, **style: Any) -> None:
        figure.text(x / width, 1 - y / height, text, **({"fontsize": 8, "linespacing": 1.15} | style))

    for number, line in enumerate(heading_lines):
        style = {"fontsize": 10} if number == 0 and title else {"color": "0.35"}
        write(CELL_GAP, CELL_GAP + (TEXT_HEIGHT + 6) * number, line, va="top", **style)
    for number, row in enumerate(rows):
        lines = title_lines[number]
        image_top = top + TEXT_HEIGHT * lines + (2 if lines else 0)
        if row.label:
            write(left - CELL_GAP, image_top + cell_height / 2, row.label, ha="right", va="center")
        for column, (image, text) in enumerate(zip(images[number], titles[number], strict=True)):
            x = left + column * (cell_width + CELL_GAP)
            image_x = x + (cell_width - image.shape[1]) // 2
            image_y = image_top + (cell_height - image.shape[0]) // 2
            figure.figimage(image, image_x, height - image_y - image.shape[0], origin="upper")
            if text:
                write(x + cell_width / 2, image_top - 3, text, ha="center", va="bottom")
        top += heights[number]
    return figure


def _cell_side(sides: Sequence[int], side: int) -> int:
    """A multiple of the largest image's longer side that is near `side`; `side` for large images."""
    largest = max(sides, default=side)
    return side if largest > 1.5 * side else largest * max(1, round(side / largest))


def fit_tile(image: Pixels, side: int) -> Pixels:
    """An RGB image that fits into a square: enlarged by a whole factor, or shrunk if it is larger."""
    channels = 1 if image.ndim == 2 else image.shape[2]
    pixels = image.reshape(*image.shape[:2], channels).repeat(3 // channels, 2)
    height, width = pixels.shape[:2]
    factor = side // max(height, width)
    if factor >= 1:
        return pixels.repeat(factor, 0).repeat(factor, 1)
    scale = side / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))


def _wrap(title: str, side: int) -> str:
    """At most three lines of a tile's width; the first two newlines of the text are kept."""
    characters = max(8, int(side / CHARACTER_WIDTH) + 1)
    lines = [part for line in title.split("\n") for part in textwrap.wrap(line, characters)]
    if len(lines) > MAX_LABEL_LINES:
        lines = [*lines[: MAX_LABEL_LINES - 1], lines[MAX_LABEL_LINES - 1][: characters - 1] + "…"]
    return "\n".join(lines)


def needs_log_scale(values: Iterable[float]) -> bool:
    """Whether single values would flatten all others on a linear scale."""
    numbers = np.array([value for value in values if np.isfinite(value)])
    return len(numbers) > 1 and numbers.min() > 0 and numbers.max() > LOG_RATIO * float(np.median(numbers))
