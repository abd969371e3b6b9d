"""The test-time crops of the papers: records that list the views of an image. Evaluation averages over them.

Sizes are in pixels for a network with the paper's input size, and scale in proportion for any other size.
"""

from typing import NamedTuple

from convatlas.data.images.resize import Box
from convatlas.storage.records import Record


class CropView(NamedTuple):
    """One view: the image resized to `resize_size` (height, width), then `box` of it, flipped or not.

    A box of another size than the network's input is resized to it.
    """

    resize_size: tuple[int, int]
    box: Box
    hflip: bool = False


class CenterCrop(Record, frozen=True, tag=True, kw_only=True):
    """Resize the shorter side to `shorter`, crop the centre."""

    shorter: int = 256
    paper_size: int = 224

    def views(self, height: int, width: int, size: int) -> tuple[CropView, ...]:
        resize_size = resize_shorter_side(height, width, _scale_length(self.shorter, size, self.paper_size))
        return (CropView(resize_size, _square_in(Box(0, 0, *resize_size), size, 1, 1)),)


class TenCrop(Record, frozen=True, tag=True, kw_only=True):
    """Crop the corners and the centre of the central square of side `shorter`; flip each of the five crops.

    Krizhevsky 2012, sec. 4.1.
    """

    shorter: int = 256
    paper_size: int = 224

    def views(self, height: int, width: int, size: int) -> tuple[CropView, ...]:
        side = _scale_length(self.shorter, size, self.paper_size)
        resize_size = resize_shorter_side(height, width, side)
        square = _square_in(Box(0, 0, *resize_size), side, 1, 1)
        boxes = [_square_in(square, size, down, right) for down, right in (*CORNERS, (1, 1))]
        return tuple(CropView(resize_size, box, hflip) for hflip in (False, True) for box in boxes)


class InceptionCrops(Record, frozen=True, tag=True, kw_only=True):
    """Crop several squares at several scales, six crops of each square; flip each crop.

    At each scale the squares are the left, middle and right one (or top, middle, bottom). The six crops are
    the square's corners, its centre, and itself resized: 4 x 3 x 6 x 2 = 144 views (Szegedy 2014, sec. 7).
    With `squares` 1 only the middle square is used: at one scale these are 12 crops, as many as in
    arXiv:1512.00567, which does not define them.
    """

    scales: tuple[int, ...] = (256, 288, 320, 352)
    squares: int = 3
    paper_size: int = 224

    def views(self, height: int, width: int, size: int) -> tuple[CropView, ...]:
        views = []
        for scale in self.scales:
            side = _scale_length(scale, size, self.paper_size)
            resize_size = resize_shorter_side(height, width, side)
            for shift in range(3) if self.squares == 3 else (1,):
                # the shift acts along the longer side: along the other there is no room
                square = _square_in(Box(0, 0, *resize_size), side, shift, shift)
                boxes = [_square_in(square, size, down, right) for down, right in (*CORNERS, (1, 1))]
                views += [
                    CropView(resize_size, box, hflip) for hflip in (False, True) for box in (*boxes, square)
                ]
        return tuple(views)


class FullImage(Record, frozen=True, tag=True, kw_only=True):
    """The full image at each scale, and its mirror image, for a network applied fully convolutionally.

    Simonyan & Zisserman 2014, sec. 3.2; He 2015, sec. 3.4: 224, 256, 384, 480 and 640.
    """

    scales: tuple[int, ...] = (224, 256, 384, 480, 640)
    mirrored: bool = True
    paper_size: int = 224

    def views(self, height: int, width: int, size: int) -> tuple[CropView, ...]:
        lengths = [_scale_length(scale, size, self.paper_size) for scale in self.scales]
        resize_sizes = [resize_shorter_side(height, width, length) for length in lengths]
        hflips = (False, True) if self.mirrored else (False,)
        return tuple(
            CropView(resize_size, Box(0, 0, *resize_size), hflip)
            for resize_size in resize_sizes
            for hflip in hflips
        )


MultiCrop = CenterCrop | TenCrop | InceptionCrops | FullImage
CORNERS = ((0, 0), (0, 2), (2, 0), (2, 2))  # offsets down and right, in halves of the room


def resize_shorter_side(height: int, width: int, length: int) -> tuple[int, int]:
    """The (height, width) of an image after its shorter side is resized to `length`."""
    shorter = min(height, width)
    return max(length, int(height * length / shorter)), max(length, int(width * length / shorter))


def _scale_length(length: int, size: int, paper_size: int) -> int:
    return round(length * size / paper_size)


def _square_in(outer: Box, side: int, down: int, right: int) -> Box:
    """The square of `side` in `outer`, offset from its top left corner by halves of the room."""
    top = round((outer.height - side) * down / 2)
    left = round((outer.width - side) * right / 2)
    return Box(outer.top + top, outer.left + left, side, side)
