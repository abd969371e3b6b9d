"""Masks as pictures: the colours of the classes, masks over their images, and PNG files."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from convatlas.data.mask import IGNORE
from convatlas.errors import UserError

OKABE_ITO = np.array(
    [
        (230, 159, 0),
        (86, 180, 233),
        (0, 158, 115),
        (240, 228, 66),
        (0, 114, 178),
        (213, 94, 0),
        (204, 121, 167),
    ],
    np.uint8,
)
MAX_INSTANCES = (1 << 16) - 1
OPACITY = 0.55  # of a class's colour over the image


def palette() -> NDArray[np.uint8]:
    """(256, 3): the colour of each class. 0 is black, the next seven can be told apart by all eyes (Okabe and
    Ito), and IGNORE is white. The others have the colours of PASCAL VOC's devkit: the bits of the index,
    three at a time, become the highest bits of red, green and blue."""
    index = np.arange(256)
    colors = np.zeros((256, 3), np.uint8)
    for bit in range(8):
        for channel in range(3):
            colors[:, channel] |= ((index >> (3 * bit + channel) & 1) << (7 - bit)).astype(np.uint8)
    colors[1 : len(OKABE_ITO) + 1] = OKABE_ITO
    colors[IGNORE] = 255
    return colors


def colorize(mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(h, w) -> (h, w, 3): the classes' colours."""
    colors: NDArray[np.uint8] = palette()[mask]
    return colors


def overlay(pixels: NDArray[np.uint8], mask: NDArray[np.uint8], background: int = 0) -> NDArray[np.uint8]:
    """(h, w, 1 or 3), (h, w) -> (h, w, 3): an image in grey with the colours of all classes but the
    background over it, outlined; pixels that are ignored are white."""
    height, width, channels = pixels.shape
    grey = np.asarray(Image.fromarray(pixels if channels == 3 else pixels[:, :, 0]).convert("L"), np.float64)
    picture = np.repeat(grey[:, :, None], 3, axis=2)
    colored = mask != background
    colors = colorize(mask).astype(np.float64)
    picture[colored] = (1 - OPACITY) * picture[colored] + OPACITY * colors[colored]
    edge = np.zeros((height, width), bool)
    edge[:, 1:] |= mask[:, 1:] != mask[:, :-1]
    edge[1:] |= mask[1:] != mask[:-1]
    edge &= mask != IGNORE
    picture[edge] = colors[edge]
    return picture.round().astype(np.uint8)


def instances_png(instances: NDArray[np.integer]) -> bytes:
    """A PNG of 16 bits of the ids of instances, as they are read. Raises UserError for more than 65,535."""
    largest = int(instances.max(initial=0))
    if largest > MAX_INSTANCES:
        raise UserError(f"a mask of {largest:,} objects: a PNG of 16 bits numbers {MAX_INSTANCES:,} of them")
    buffer = io.BytesIO()
    Image.fromarray(instances.astype(np.uint16)).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def mask_png(mask: NDArray[np.uint8]) -> bytes:
    """A PNG of class ids with the palette, as masks are read."""
    image = Image.fromarray(mask)
    image.putpalette(palette().tobytes())
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
