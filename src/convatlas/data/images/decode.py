"""Image files: named formats only, one frame, a pixel limit, and one error type whatever a decoder raises.

An image's size is read from its header; its pixels are decoded on request. JPEGs are decoded by
libjpeg-turbo, at reduced scale if the requested size cannot show more. Pillow decodes all other formats, and
the JPEGs that libjpeg-turbo does not read.
"""

import io
import re
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
from convatlas.storage.regular_file import read_regular

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
EXTENSIONS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm"),
)
MAX_PIXELS = 100_000_000
_MAX_PIXELS_BY_FORMAT = {"WEBP": MAX_PIXELS // 2}  # its decoder holds four copies of an image
# Pixels times scans of a JPEG: a progressive one has ten scans, a hostile one thousands in a few kilobytes.
MAX_SCAN_PIXELS = 20 * MAX_PIXELS
_MIN_SCAN_BYTES = 10
_BAND_PIXELS = 1 << 20  # pixels that are converted at a time
_GRAYSCALE_MODES = ("1", "L", "LA", "I", "F", "I;16", "I;16L", "I;16B")
_ORIENTATION_TAG = 0x0112  # in EXIF
# libjpeg's messages for missing or wrong entropy-coded data, where a lenient decoder would show grey or noise
_DAMAGE_MESSAGE = re.compile(
    r"premature end|bad Huffman|bad arithmetic|invalid (progressive|scan)|corrupt JPEG data: found marker",
    re.IGNORECASE,
)

Pixels = NDArray[np.uint8]  # (height, width, channels)


class UnreadableImage(UserError):
    """A file that is not a readable image: its name and the reason, both printable."""

    def __init__(self, name: str, reason: str):
        self.name = printable(name)
        self.reason = printable(reason)
        super().__init__(f"{self.name}: {self.reason}")

    def __reduce__(self) -> tuple[type["UnreadableImage"], tuple[str, str]]:
        return type(self), (self.name, self.reason)  # one rank sends it to another


class SizedImage(Protocol):
    """What has the height and width of an image."""

    @property
    def height(self) -> int: ...
    @property
    def width(self) -> int: ...


class ImageLike(SizedImage, Protocol):
    """An image whose header has been read. `height` and `width` are those after the EXIF orientation."""

    def decode(self, channels: int, min_size: tuple[int, int]) -> Pixels:
        """Decode the full image, uint8; a decoder may reduce it, but not below `min_size` (height, width).

        Raises UnreadableImage.
        """


class DecodedImage:
    """An image whose pixels are in memory: (height, width, channels)."""

    def __init__(self, array: Pixels):
        self.array = array
        self.height, self.width = array.shape[:2]

    def decode(self, channels: int, min_size: tuple[int, int] = (0, 0)) -> Pixels:
        array_channels = self.array.shape[2]
        if channels == array_channels:
            return self.array
        if (array_channels, channels) == (1, 3):
            return np.repeat(self.array, 3, axis=2)
        if (array_channels, channels) == (3, 1):
            return np.asarray(Image.fromarray(self.array).convert("L"))[:, :, None]
        raise UserError(
            f"images have {array_channels} channels, not the {channels} that this network was built for"
        )


class EncodedImage:
    """The bytes of an image file. Raises UnreadableImage.

    The EXIF orientation is applied, transparency is composited on white, and 16 bits are reduced to 8.
    """

    def __init__(self, data: bytes, name: str):
        self.data = data
        self.name = name
        with _UnreadableOnError(name):
            if not data:
                raise UnreadableImage(name, "the file is empty")
            jpeg_size = _read_jpeg_size(data)
            self.uses_libjpeg_turbo = jpeg_size is not None
            height, width = jpeg_size or self.pil_image.size[::-1]
            self._check_decoding_cost(height, width)
            self.orientation = self._read_orientation()
            # Pillow has already applied the orientation of a TIFF to its size and pixels
            is_oriented = not self.uses_libjpeg_turbo and self.pil_image.format == "TIFF"
            self.pixel_orientation = 1 if is_oriented else self.orientation
            self.transposed = self.pixel_orientation in (5, 6, 7, 8)
            self.height, self.width = (width, height) if self.transposed else (height, width)

    @cached_property
    def pil_image(self) -> Image.Image:
        """The file opened by Pillow, which has read the header only."""
        with _without_warnings():
            return Image.open(io.BytesIO(self.data), formats=FORMATS)

    def decode(self, channels: int, min_size: tuple[int, int]) -> Pixels:
        if channels not in (1, 3):
            raise UserError(
                f"image files have 1 or 3 channels, not the {channels} that this network was built for"
            )
        with _UnreadableOnError(self.name):
            pixels = None
            if self.uses_libjpeg_turbo:
                pixels = self._decode_libjpeg_turbo(channels, min_size[::-1] if self.transposed else min_size)
            if pixels is None:
                pixels = self._decode_pillow(channels)
            return _apply_orientation(pixels, self.pixel_orientation)

    def _check_decoding_cost(self, height: int, width: int) -> None:
        max_pixels = MAX_PIXELS
        if not self.uses_libjpeg_turbo:
            max_pixels = _MAX_PIXELS_BY_FORMAT.get(self.pil_image.format or "", MAX_PIXELS)
        if width * height > max_pixels:
            raise UnreadableImage(
                self.name, f"{width}x{height} pixels, more than the limit of {max_pixels:,}"
            )
        is_jpeg = self.data[:2] == b"\xff\xd8"
        if is_jpeg and width * height * len(self.data) // _MIN_SCAN_BYTES > MAX_SCAN_PIXELS:
            scans = _count_scans(self.data)
            if width * height * scans > MAX_SCAN_PIXELS:
                reason = f"{width}x{height} pixels in {scans:,} scans would take too long to decode"
                raise UnreadableImage(self.name, reason)

    def _read_orientation(self) -> int:
        """The EXIF orientation, 1 to 8; 1 if there is none."""
        if self.uses_libjpeg_turbo:
            # the EXIF segment comes before the quantisation tables, and most JPEGs have none
            may_have_exif = self.data.find(b"Exif\0", 0, self.data.find(b"\xff\xdb")) >= 0
        elif self.pil_image.format == "PNG":
            # Pillow would decode all pixels, because EXIF may come after them
            markers = (b"eXIf", b"Raw profile type", b"tiff:Orientation")
            may_have_exif = any(marker in self.data for marker in markers)
        else:
            may_have_exif = True
        if not may_have_exif:
            return 1
        with _without_warnings():
            orientation = self.pil_image.getexif().get(_ORIENTATION_TAG, 1)
        return orientation if orientation in range(1, 9) else 1

    def _decode_libjpeg_turbo(self, channels: int, min_size: tuple[int, int]) -> Pixels | None:
        """Decode by libjpeg-turbo; None for a file that only Pillow may judge."""
        color_space = "RGB" if channels == 3 else "GRAY"
        try:
            pixels: Pixels = simplejpeg.decode_jpeg(
                self.data, color_space, min_height=min_size[0], min_width=min_size[1]
            )
            return pixels
        except ValueError as error:
            if _DAMAGE_MESSAGE.search(str(error)):
                raise
            return None  # stray bytes between segments, or a chroma subsampling that it does not support

    def _decode_pillow(self, channels: int) -> Pixels:
        """Decode by Pillow, without the EXIF orientation.

        Rows are converted in bands: a conversion at once would hold several copies of the image.
        """
        with _without_warnings():
            image = self.pil_image
            image.load()
            is_deep = image.mode.startswith(("I", "F"))
            scale = 1
            if is_deep and image.getextrema()[1] > 255:  # type: ignore[operator]  # one channel: (min, max)
                scale = 257
            width, height = image.size
            pixels = np.empty((height, width, channels), np.uint8)
            band_rows = max(1, _BAND_PIXELS // width)
            for top in range(0, height, band_rows):
                band = image.crop((0, top, width, min(top + band_rows, height)))
                if is_deep:
                    values = np.nan_to_num(np.asarray(band, np.float64)) / scale
                    band = Image.fromarray(values.clip(0, 255).astype(np.uint8))
                elif image.has_transparency_data:
                    band = band.convert("RGBA")
                    band = Image.alpha_composite(Image.new("RGBA", band.size, "white"), band)
                rows = np.asarray(band.convert("L" if channels == 1 else "RGB"))
                pixels[top : top + band_rows] = rows.reshape(*rows.shape[:2], channels)
        return pixels


def _read_jpeg_size(data: bytes) -> tuple[int, int] | None:
    """The (height, width) of a JPEG for libjpeg-turbo; None for CMYK and other formats, left to Pillow."""
    if data[:3] != b"\xff\xd8\xff":
        return None
    try:
        height, width, color_space, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return None
    return (height, width) if color_space in ("YCbCr", "Gray", "RGB") else None


def _count_scans(data: bytes) -> int:
    """An upper bound of the scans of a JPEG that libjpeg would decode (ITU-T T.81, B.1 and B.2)."""
    position = 2
    components = 0
    progressive = False
    while data[position : position + 1] == b"\xff" and position + 9 < len(data):
        marker = data[position + 1]
        if marker == 0xDA and not progressive and data[position + 4] == components:
            return 1  # one scan has all components: libjpeg does not read what follows
        if marker in (0xC0, 0xC1, 0xC2):
            progressive = marker == 0xC2
            components = data[position + 9]
        elif marker == 0xDA:
            break
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    return data.count(b"\xff\xda", position)


def open_image(path: Path) -> EncodedImage:
    """Read an image file. Raises UnreadableImage, also for a path that is not a file."""
    with _UnreadableOnError(str(path)):
        try:
            return EncodedImage(read_regular(path), str(path))
        except IsADirectoryError:
            raise UnreadableImage(str(path), "a folder without images") from None


def is_grayscale(image: EncodedImage) -> bool:
    """Whether the header says that the image has one channel of colour."""
    if image.uses_libjpeg_turbo:  # which reads JPEGs that Pillow refuses
        return bool(simplejpeg.decode_jpeg_header(image.data)[2] == "Gray")
    return image.pil_image.mode in _GRAYSCALE_MODES


def _apply_orientation(pixels: Pixels, orientation: int) -> Pixels:
    """Apply EXIF 2.3's Orientation: the sides of the scene at which the stored first row and column are."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    # NumPy calls a single reversed row or column contiguous, although torch refuses its negative strides
    return pixels.copy() if 2 <= orientation <= 8 else pixels


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Silence Pillow's warnings: each is about an error that is raised below, or about something harmless."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


class _UnreadableOnError:
    """Turn any exception into UnreadableImage: decoders raise all kinds of exceptions on hostile bytes."""

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
