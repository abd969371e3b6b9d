"""What evaluation looks at, as the papers do: records that list windows of the resized picture. Evaluation runs them and averages.

Sizes are in pixels for a network of the paper's input, and in proportion for one of another.
"""

from typing import NamedTuple

from convatlas.data.images.resize import Box
from convatlas.storage.records import Record


class CropView(NamedTuple):
    """The picture resized to `whole`, the box of that, brought to the network's size if it has another, mirrored or not."""

    whole: tuple[int, int]
    box: Box
    hflip: bool = False


class CenterCrop(Record, frozen=True, tag=True, kw_only=True):
    """The shorter side brought to `shorter`, the centre taken."""

    shorter: int = 256
    paper_size: int = 224

    def views(self, height: int, width: int, size: int) -> tuple[CropView, ...]:
        whole = shorter_to(height, width, _scaled(self.shorter, size, self.paper_size))
        return (CropView(whole, _place(Box(0, 0, *whole), size, 1, 1)),)


class TenCrop(Record, frozen=True, tag=True, kw_only=True):
    """Of the central square of side `shorter`: its four corners, its centre, and their mirror images (Krizhevsky 2012, sec. 4.1)."""

    shorter: int = 256
    paper_size: int = 224

    def views(self, height: int, width: int, size: int) -> tuple[CropView, ...]:
        side = _scaled(self.shorter, size, self.paper_size)
        whole = shorter_to(height, width, side)
        square = _place(Box(0, 0, *whole), side, 1, 1)
        boxes = [_place(square, size, down, across) for down, across in (*CORNERS, (1, 1))]
        return tuple(CropView(whole, box, mirrored) for mirrored in (False, True) for box in boxes)


class InceptionCrops(Record, frozen=True, tag=True, kw_only=True):
    """At each scale the squares at the left, in the middle and at the right (or top, middle, bottom); of each its corners, its centre
    and itself resized; and their mirror images: 4 x 3 x 6 x 2 = 144 (Szegedy 2014, sec. 7). `squares` 1 takes the middle alone:
    with one scale the 12 crops of arXiv:1512.00567, which does not say what they are."""

    scales: tuple[int, ...] = (256, 288, 320, 352)
    squares: int = 3
    paper_size: int = 224

    def views(self, height: int, width: int, size: int) -> tuple[CropView, ...]:
        found = []
        for scale in self.scales:
            side = _scaled(scale, size, self.paper_size)
            whole = shorter_to(height, width, side)
            for step in range(3) if self.squares == 3 else (1,):
                square = _place(Box(0, 0, *whole), side, step, step)  # along the longer side: the other has no room
                boxes = [_place(square, size, down, across) for down, across in (*CORNERS, (1, 1))]
                found += [CropView(whole, box, mirrored) for mirrored in (False, True) for box in (*boxes, square)]
        return tuple(found)


class FullImage(Record, frozen=True, tag=True, kw_only=True):
    """The whole picture at each scale, for a network applied as convolutions all over it, and its mirror image (Simonyan & Zisserman
    2014, sec. 3.2; He 2015, sec. 3.4: 224, 256, 384, 480 and 640)."""

    scales: tuple[int, ...] = (224, 256, 384, 480, 640)
    mirrored: bool = True
    paper_size: int = 224

    def views(self, height: int, width: int, size: int) -> tuple[CropView, ...]:
        wholes = [shorter_to(height, width, _scaled(scale, size, self.paper_size)) for scale in self.scales]
        return tuple(CropView(whole, Box(0, 0, *whole), m) for whole in wholes for m in ((False, True) if self.mirrored else (False,)))


MultiCrop = CenterCrop | TenCrop | InceptionCrops | FullImage
CORNERS = ((0, 0), (0, 2), (2, 0), (2, 2))  # halves of the room down and across


def shorter_to(height: int, width: int, shorter: int) -> tuple[int, int]:
    """The size of a picture whose shorter side is brought to `shorter`."""
    least = min(height, width)
    return max(shorter, int(height * shorter / least)), max(shorter, int(width * shorter / least))


def _scaled(length: int, size: int, paper_size: int) -> int:
    return round(length * size / paper_size)


def _place(within: Box, side: int, down: int, across: int) -> Box:
    """A square of `side`, `down` and `across` halves of the room from the top left."""
    top, left = (round((room - side) * halves / 2) for room, halves in ((within.height, down), (within.width, across)))
    return Box(within.top + top, within.left + left, side, side)
