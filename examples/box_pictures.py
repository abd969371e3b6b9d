"""A picture of detections, for examples/boxes.py: objects in white, the best detections in colour."""

import io
from collections.abc import Sequence

from PIL import Image, ImageDraw

from convatlas.boxes import Detections
from convatlas.data.sources.box_annotations import AnnotatedImage
from convatlas.names import printable

COLUMNS = 4
GAP = 8  # pixels
MAX_DETECTIONS = 2  # of an image
COLORS = ("#e6194b", "#3cb44b", "#ffe119", "#4363d8", "#f58231", "#911eb4", "#46f0f0", "#f032e6")


def draw_detections(
    images: Sequence[AnnotatedImage], detections: Sequence[Detections], classes: Sequence[str]
) -> bytes:
    """A PNG of the images with their objects (white) and best detections, with class and score."""
    panels = [draw_panel(*pair, classes) for pair in zip(images, detections, strict=True)]
    width, height = (max(sides) + GAP for sides in zip(*(panel.size for panel in panels), strict=True))
    rows = -(-len(panels) // COLUMNS)
    canvas = Image.new("RGB", (width * min(COLUMNS, len(panels)) + GAP, height * rows + GAP), "white")
    for index, panel in enumerate(panels):
        canvas.paste(panel, (GAP + width * (index % COLUMNS), GAP + height * (index // COLUMNS)))
    buffer = io.BytesIO()
    canvas.save(buffer, "PNG")
    return buffer.getvalue()


def draw_panel(image: AnnotatedImage, found: Detections, classes: Sequence[str]) -> Image.Image:
    panel = Image.fromarray(image.decode())
    draw = ImageDraw.Draw(panel)
    for box, label in zip(image.boxes, image.labels, strict=True):
        draw.rectangle([*box], outline="white", width=2)
        write(draw, (box[0], box[3]), printable(classes[label]), "white", below=True)
    for box, score, label in list(zip(*found, strict=True))[:MAX_DETECTIONS][::-1]:
        color = COLORS[label % len(COLORS)]
        draw.rectangle([*box], outline=color, width=2)
        write(draw, (box[0], box[1]), f"{printable(classes[label])} {score:.2f}", color)
    return panel


def write(
    draw: ImageDraw.ImageDraw, corner: tuple[float, float], text: str, color: str, below: bool = False
) -> None:
    """Black text on colour, in the corner of a box: inside of it, above its lower edge if `below`."""
    left, _, right, bottom = draw.textbbox((0, 0), text)
    x, y = corner[0], corner[1] - (bottom + 2 if below else 0)
    draw.rectangle([x, y, x + right - left + 4, y + bottom + 2], fill=color)
    draw.text((x + 2, y), text, fill="black")
