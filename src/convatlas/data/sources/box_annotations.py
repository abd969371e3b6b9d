"""Images with the boxes of their objects, read from annotation files, and what is done about bad ones.

A box that cannot be used would leave its object unmarked, and a detector would learn it as background. So a
bad annotation is an error, or, on request, its whole image is left out and listed.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from convatlas.data.images.decode import MAX_PIXELS, Pixels, open_image
from convatlas.data.images.deep_pixels import ValueRange
from convatlas.data.images.unreadable import UnreadableImage
from convatlas.errors import UserError, printable, unknown_name

OnBad = Literal["error", "skip"]
TOLERANCE = 1.0  # pixels that a box may reach beyond its image; it is clipped


class BadAnnotation(NamedTuple):
    """An annotation that cannot be used, or the image that it is in."""

    position: str  # the file, and the image or the annotation in it
    reason: str

    def __str__(self) -> str:
        return f"{self.position}: {self.reason}"


@dataclass(frozen=True)
class AnnotatedImage:
    """An image file, its size in pixels, and its objects. `ignored` objects (COCO's crowd regions, VOC's
    difficult objects) are neither targets nor background."""

    file: Path
    height: int
    width: int
    boxes: NDArray[np.float64]  # (n, 4): x1, y1, x2, y2
    labels: NDArray[np.int64]  # (n,): indices of classes
    ignored: NDArray[np.bool_]  # (n,)

    def decode(self, channels: int = 3, value_range: ValueRange | None = None) -> Pixels:
        """The pixels (height, width, channels), uint8, those of more bits by `value_range`. Raises
        UnreadableImage for a file that is no image, or whose size is not that of the annotations: its boxes
        would be elsewhere."""
        image = open_image(self.file)
        if (image.height, image.width) != (self.height, self.width):
            raise UnreadableImage(
                str(self.file),
                f"it has {image.width}x{image.height} pixels (upright), its annotations are for "
                f"{self.width}x{self.height}: its boxes would be in other places",
            )
        pixels = image.decode(channels, (image.height, image.width), value_range)
        if pixels.shape[:2] != (self.height, self.width):  # reduced while it was decoded
            raise UnreadableImage(str(self.file), f"it has more than {MAX_PIXELS:,} pixels: make it smaller")
        return pixels


@dataclass(frozen=True)
class AnnotatedImages:
    """The images of an annotation file, their classes in order, and what was left out."""

    images: tuple[AnnotatedImage, ...]
    classes: tuple[str, ...]
    skipped: tuple[BadAnnotation, ...] = ()


class BoxReader:
    """Collects the images of a set; a bad annotation is raised, or its image is skipped and listed."""

    def __init__(self, on_bad: OnBad):
        if on_bad not in get_args(OnBad):
            raise unknown_name("policy for bad annotations", on_bad, get_args(OnBad))
        self.on_bad = on_bad
        self.images: list[AnnotatedImage] = []
        self.skipped: list[BadAnnotation] = []

    def bad(self, position: str, reason: str) -> None:
        """Raise, or list. Raises UserError."""
        problem = BadAnnotation(position, reason)
        if self.on_bad == "error":
            raise UserError(
                f"{problem}; fix it, or read the set with on_bad='skip', which leaves the image out"
            )
        self.skipped.append(problem)

    def add(
        self,
        file: Path,
        size: tuple[int, int],
        boxes: Iterable[tuple[str, Sequence[float], int | str, bool]],
        position: str,
    ) -> None:
        """Add an image of `size` (height, width) with its boxes: (position, x1 y1 x2 y2, label, ignored). A
        label that is text is the reason why there is none. The image is skipped if any of it is bad."""
        reason = image_problem(file, size)
        if reason is not None:
            self.bad(position, reason)
            return
        rows, labels, ignored = [], [], []
        usable = True
        for box_position, box, label, is_ignored in boxes:
            problem = label if isinstance(label, str) else box_problem(box, size)
            if problem is not None:
                self.bad(box_position, problem)
                usable = False
            else:
                rows.append(clip_box(box, size))
                labels.append(label)
                ignored.append(is_ignored)
        if usable:
            array = np.array(rows, np.float64).reshape(-1, 4)
            self.images.append(
                AnnotatedImage(file, *size, array, np.array(labels, np.int64), np.array(ignored, bool))
            )

    def result(self, classes: Sequence[str], source: str) -> AnnotatedImages:
        """Raises UserError where no image is left."""
        if not self.images:
            first = f"; the first of {len(self.skipped)} bad annotations: {self.skipped[0]}" * bool(
                self.skipped
            )
            raise UserError(f"{source} has no usable image{first}")
        return AnnotatedImages(tuple(self.images), tuple(classes), tuple(self.skipped))


def image_problem(file: Path, size: tuple[int, int]) -> str | None:
    """Why an image cannot be used; None if it can."""
    if min(size) < 1:
        return f"an image of {size[1]}x{size[0]} pixels"
    if not file.is_file():
        return f"the image file {printable(file)} does not exist"
    return None


def box_problem(box: Sequence[float], size: tuple[int, int]) -> str | None:
    """Why a box x1, y1, x2, y2 cannot be used in an image of `size` (height, width); None if it can."""
    height, width = size
    shown = "(" + ", ".join(f"{value:g}" for value in box) + ")"
    x1, y1, x2, y2 = box
    if not np.isfinite(box).all():
        return f"the box {shown} is not finite"
    if x2 < x1 or y2 < y1:
        return f"the box {shown} is inverted"
    if x2 == x1 or y2 == y1:
        return f"the box {shown} has no area"
    excess = max(-x1, -y1, x2 - width, y2 - height)
    inside = clip_box(box, size)
    if excess > TOLERANCE or inside[0] >= inside[2] or inside[1] >= inside[3]:
        return f"the box {shown} lies {excess:g} pixels outside the image of {width}x{height}"
    return None


def clip_box(box: Sequence[float], size: tuple[int, int]) -> tuple[float, float, float, float]:
    height, width = size
    x1, y1, x2, y2 = box
    return max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height))


def image_path(root: Path, name: str) -> Path | None:
    """The file `name` below `root`; None for one that is elsewhere, or that no file can be named."""
    path = Path(name)
    if path.is_absolute() or ".." in path.parts or "\0" in name or not path.parts:
        return None
    return root / path
