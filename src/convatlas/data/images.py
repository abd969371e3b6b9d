"""Image files. Named formats only, one frame, a pixel cap, and one error whatever a decoder raises."""

import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from convatlas.errors import UserError, printable

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
MOST_PIXELS = 100_000_000
_GREY = ("1", "L", "LA", "I", "F", "I;16", "I;16L", "I;16B")


class UnreadableImage(UserError):
    """A file that is not a readable image: its name and the reason."""


def decode(path: Path, channels: int, size: tuple[int, int]) -> NDArray[np.uint8]:
    """An image file as (channels, height, width), uint8. Turned as its EXIF says; transparency is laid on white; 16 bits become 8.

    Brought to `size` by resizing with antialiasing until it covers it, then cropping the centre; an image of that size is untouched.
    Raises UnreadableImage.
    """
    image = _open(path)
    if image.mode.startswith(("I", "F")):
        values = np.asarray(image, np.float64)
        image = Image.fromarray((values / (257 if values.max() > 255 else 1)).clip(0, 255).astype(np.uint8))
    elif image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert("L" if channels == 1 else "RGB")
    if image.size != size[::-1]:
        image = ImageOps.fit(image, size[::-1], Image.Resampling.BILINEAR)
    pixels = np.array(image, np.uint8)
    if channels == 1:
        return pixels[None]
    if channels == 3:
        return np.ascontiguousarray(pixels.transpose(2, 0, 1))
    raise UserError(f"image files have 1 or 3 channels, not the {channels} that this network was built for")


def is_grey(path: Path) -> bool:
    """Whether the file's header says that it holds one channel. Raises UnreadableImage."""
    with _Guard(path), Image.open(path, formats=FORMATS) as image:
        return image.mode in _GREY


def _open(path: Path) -> Image.Image:
    with _Guard(path), Image.open(path, formats=FORMATS) as image:
        width, height = image.size
        if width * height > MOST_PIXELS:
            raise UnreadableImage(f"{printable(path)}: {width}x{height} pixels, more than the {MOST_PIXELS:,} that are read")
        image.load()
        return ImageOps.exif_transpose(image)


class _Guard:
    """Decoders raise whatever they like on hostile bytes: any exception becomes one sentence with the file's name."""

    def __init__(self, path: Path):
        self.path, self.quiet = path, warnings.catch_warnings()

    def __enter__(self) -> None:
        self.quiet.__enter__()
        warnings.simplefilter("ignore")

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self.quiet.__exit__(None, None, None)
        if isinstance(error, UnreadableImage) or not isinstance(error, Exception):
            return
        if isinstance(error, FileNotFoundError | IsADirectoryError | PermissionError):
            raise UnreadableImage(f"{printable(self.path)}: {error.strerror}") from None
        reason = printable(error).replace(str(self.path), "it")
        raise UnreadableImage(f"{printable(self.path)}: not a readable {'/'.join(FORMATS)} image ({reason})") from None
