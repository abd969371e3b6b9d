"""Boxes drawn over their images, with a line of text in a corner of each."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from convatlas.data.mask_pictures import palette
from convatlas.names import printable

WHITE = (255, 255, 255)
MIN_TEXT, TEXT_SHARE = 11, 1 / 24  # pixels, and of the image's shorter side
MIN_LINE, LINE_SHARE = 2, 1 / 160
DARK = 110  # luminance of a colour, from 0 to 255, below which the text on it is white

Color = tuple[int, int, int]


def class_color(label: int) -> Color:
    """The colour of a class: that of `mask_pictures.palette`, from its first that is no background."""
    red, green, blue = palette()[1 + label % 254].tolist()
    return red, green, blue


def draw_boxes(
    pixels: NDArray[np.uint8],
    boxes: NDArray[np.float64],
    texts: Sequence[str],
    colors: Sequence[Color],
    below: bool = False,
) -> NDArray[np.uint8]:
    """(h, w, 1 or 3), boxes x1, y1, x2, y2 (n, 4) -> (h, w, 3): an image with boxes, the first on top. Each
    has its text in its upper corner, or `below` in its lower one."""
    image = Image.fromarray(pixels.repeat(3 // pixels.shape[2], axis=2))
    draw = ImageDraw.Draw(image)
    side = min(image.size)
    font = ImageFont.load_default(max(MIN_TEXT, round(side * TEXT_SHARE)))
    line = max(MIN_LINE, round(side * LINE_SHARE))
    for box, text, color in reversed([*zip(boxes.tolist(), texts, colors, strict=True)]):
        draw.rectangle(box, outline=color, width=line)
        if text:
            _write(draw, (box[0], box[3] if below else box[1]), printable(text), color, font, below)
    return np.asarray(image)


def _write(
    draw: ImageDraw.ImageDraw,
    corner: tuple[float, float],
    text: str,
    color: Color,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    below: bool,
) -> None:
    """Text on a ground of its colour, moved into the image where it would leave it."""
    left, top, right, bottom = draw.textbbox((0, 0), text, font)
    width, height = right - left + 4, bottom - top + 4
    image_width, image_height = draw.im.size
    x = max(0, min(corner[0], image_width - width))
    y = max(0, min(corner[1] - height if below else corner[1], image_height - height))
    draw.rectangle([x, y, x + width, y + height], fill=color)
    luminance = 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2]
    draw.text((x + 2 - left, y + 2 - top), text, "white" if luminance < DARK else "black", font)
