"""Image files. Named formats only, one frame, a pixel cap, and one error whatever a decoder raises.

A picture's size is known from its header; its pixels are decoded when asked for, JPEGs by libjpeg-turbo and at reduced scale where
the size that is wanted could not show more. All other formats, and the JPEGs that it does not read, go through Pillow.
"""

import io
import os
import re
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from convatlas.errors import UserError, printable

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
MAX_PIXELS = 100_000_000
_MAX_PIXELS_BY_FORMAT = {"WEBP": MAX_PIXELS // 2}  # its decoder holds a picture four times over
MAX_SCAN_PIXELS = 20 * MAX_PIXELS  # pixels times scans of a JPEG: a progressive one has ten, a hostile one thousands in a few kilobytes
_BAND = 1 << 20  # pixels that are converted at a time
_GREY = ("1", "L", "LA", "I", "F", "I;16", "I;16L", "I;16B")
_ORIENTATION = 0x0112  # EXIF's tag
# libjpeg's words for entropy-coded data that is lacking or wrong, where a lenient decoder would show grey or noise
_DAMAGED = re.compile(r"premature end|bad Huffman|bad arithmetic|invalid (progressive|scan)|corrupt JPEG data: found marker", re.IGNORECASE)

Pixels = NDArray[np.uint8]  # (height, width, channels)


class UnreadableImage(UserError):
    """A file that is not a readable image: its name and the reason."""

    def __init__(self, name: str, reason: str):
        super().__init__(f"{printable(name)}: {printable(reason)}")
        self.name, self.reason = name, printable(reason)


class ImageLike(Protocol):
    """An image of which the header has been read. `height` and `width` are those that one sees, turned as EXIF says."""

    @property
    def height(self) -> int: ...
    @property
    def width(self) -> int: ...
    def decode(self, channels: int, min_size: tuple[int, int]) -> Pixels:
        """The whole image, uint8, smaller than it is where that still leaves `least` (height, width). Raises UnreadableImage."""


class DecodedImage:
    """An image whose pixels are at hand: (height, width, channels)."""

    def __init__(self, array: Pixels):
        self.array = array
        self.height, self.width = array.shape[:2]

    def decode(self, channels: int, min_size: tuple[int, int] = (0, 0)) -> Pixels:
        have = self.array.shape[2]
        if channels == have:
            return self.array
        if (have, channels) == (1, 3):
            return np.repeat(self.array, 3, axis=2)
        if (have, channels) == (3, 1):
            return np.asarray(Image.fromarray(self.array).convert("L"))[:, :, None]
        raise UserError(f"images have {have} channels, not the {channels} that this network was built for")


class EncodedImage:
    """An image file's bytes. Turned as its EXIF says; transparency is laid on white; 16 bits become 8. Raises UnreadableImage."""

    def __init__(self, data: bytes, name: str):
        self.data, self.name = data, name
        with _Guard(name):
            if not data:
                raise UnreadableImage(name, "the file is empty")
            header = _header(data)
            self.jpeg = header is not None
            height, width = header or self.opened.size[::-1]
            most = MAX_PIXELS if self.jpeg else _MAX_PIXELS_BY_FORMAT.get(self.opened.format or "", MAX_PIXELS)
            if width * height > most:
                raise UnreadableImage(name, f"{width}x{height} pixels, more than the {most:,} that are read")
            if data[:2] == b"\xff\xd8" and width * height * len(data) // 10 > MAX_SCAN_PIXELS:  # a scan takes ten bytes or more
                scans = _scans(data)
                if width * height * scans > MAX_SCAN_PIXELS:
                    raise UnreadableImage(name, f"{width}x{height} pixels in {scans:,} scans, more work than an image is worth")
            self.orientation = self._orientation()
            # what Pillow says of a TIFF is of the picture as one sees it
            self.turn = 1 if not self.jpeg and self.opened.format == "TIFF" else self.orientation
            self.transposed = self.turn in (5, 6, 7, 8)
            self.height, self.width = (width, height) if self.transposed else (height, width)

    def _orientation(self) -> int:
        if self.jpeg:  # the segment of EXIF comes before the tables of quantisation, and most JPEGs have none
            says = self.data.find(b"Exif\0", 0, self.data.find(b"\xff\xdb")) >= 0
        elif self.opened.format == "PNG":  # Pillow would decode all of it to look for what may stand behind the pixels
            says = any(mark in self.data for mark in (b"eXIf", b"Raw profile type", b"tiff:Orientation"))
        else:
            says = True
        if not says:
            return 1
        with _quiet():
            found = self.opened.getexif().get(_ORIENTATION, 1)
        return found if found in range(1, 9) else 1

    @cached_property
    def opened(self) -> Image.Image:
        with _quiet():
            return Image.open(io.BytesIO(self.data), formats=FORMATS)

    def decode(self, channels: int, min_size: tuple[int, int]) -> Pixels:
        if channels not in (1, 3):
            raise UserError(f"image files have 1 or 3 channels, not the {channels} that this network was built for")
        with _Guard(self.name):
            decoded = self._fast(channels, min_size[::-1] if self.transposed else min_size) if self.jpeg else None
            return _turned(self._any(channels) if decoded is None else decoded, self.turn)

    def _fast(self, channels: int, least: tuple[int, int]) -> Pixels | None:
        """By libjpeg-turbo; None for what only Pillow may judge."""
        try:
            found: Pixels = simplejpeg.decode_jpeg(self.data, "RGB" if channels == 3 else "GRAY", min_height=least[0], min_width=least[1])
            return found
        except ValueError as error:
            if _DAMAGED.search(str(error)):
                raise
            return None  # stray bytes between segments, or a sampling that it does not know

    def _any(self, channels: int) -> Pixels:
        """By Pillow, as the file has it; some rows at a time, since conversions would hold the whole picture several times over."""
        with _quiet():
            image = self.opened
            image.load()
            deep = image.mode.startswith(("I", "F"))
            scale = 257 if deep and image.getextrema()[1] > 255 else 1  # type: ignore[operator]  # of one channel: (least, most)
            width, height = image.size
            pixels = np.empty((height, width, channels), np.uint8)
            rows = max(1, _BAND // width)
            for top in range(0, height, rows):
                band = image.crop((0, top, width, min(top + rows, height)))
                if deep:
                    band = Image.fromarray((np.nan_to_num(np.asarray(band, np.float64)) / scale).clip(0, 255).astype(np.uint8))
                elif image.has_transparency_data:
                    band = band.convert("RGBA")
                    band = Image.alpha_composite(Image.new("RGBA", band.size, "white"), band)
                found = np.asarray(band.convert("L" if channels == 1 else "RGB"))
                pixels[top : top + rows] = found.reshape(*found.shape[:2], channels)
        return pixels


def _header(data: bytes) -> tuple[int, int] | None:
    """The (height, width) of a JPEG that libjpeg-turbo is to decode; None for all others, and for CMYK, which is left to Pillow."""
    if data[:3] != b"\xff\xd8\xff":
        return None
    try:
        height, width, space, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return None
    return (height, width) if space in ("YCbCr", "Gray", "RGB") else None


def _scans(data: bytes) -> int:
    """How many scans of a JPEG libjpeg would decode, at the most (ITU-T T.81, B.1 and B.2)."""
    place, components, progressive = 2, 0, False
    while data[place : place + 1] == b"\xff" and place + 9 < len(data):
        marker = data[place + 1]
        if marker == 0xDA and not progressive and data[place + 4] == components:
            return 1  # all components in one: what follows is not looked at
        if marker in (0xC0, 0xC1, 0xC2):
            progressive, components = marker == 0xC2, data[place + 9]
        elif marker == 0xDA:
            break
        place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")
    return data.count(b"\xff\xda", place)


def open_image(path: Path) -> EncodedImage:
    """An image file. Raises UnreadableImage, also for what is no file."""
    with _Guard(str(path)):
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode):  # reading from a pipe would wait for ever
            raise UnreadableImage(str(path), "a folder without images" if stat.S_ISDIR(mode) else "not a file")
        with open(path, "rb") as file:
            return EncodedImage(file.read(), str(path))


def is_grayscale(picture: EncodedImage) -> bool:
    """Whether the header says that it holds one channel."""
    return picture.opened.mode in _GREY


def _turned(pixels: Pixels, orientation: int) -> Pixels:
    """EXIF 2.3, tag Orientation: where the stored image's top row and left column are in the scene."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    # a row or column alone, backwards, passes for contiguous with strides that torch refuses
    return pixels.copy() if 2 <= orientation <= 8 else pixels


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Pillow's warnings: what they would say is an error here, or no matter."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


class _Guard:
    """Decoders raise whatever they like on hostile bytes: any exception becomes one sentence with the file's name."""

    def __init__(self, name: str):
        self.name = name

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, UserError) or not isinstance(error, Exception):
            return
        if isinstance(error, OSError) and error.strerror and error.filename:
            raise UnreadableImage(self.name, error.strerror) from None
        reason = re.sub(r"<_io\.\w+ object at \w+>", "it", printable(error).replace(self.name, "it"))
        raise UnreadableImage(self.name, f"not a readable {'/'.join(FORMATS)} image ({reason})") from None
