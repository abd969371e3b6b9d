"""Image files: named formats only, one frame, a pixel limit, and one error type whatever a decoder raises.

An image's size is read from its header; its pixels are decoded on request. JPEGs are decoded by
libjpeg-turbo, at reduced scale if the requested size cannot show more. Pillow decodes all other formats, and
the JPEGs that libjpeg-turbo does not read. An image of more than MAX_PIXELS is never decoded to that many: a
JPEG is decoded at half its scale or less, and of other formats each 2x2 pixels are averaged.
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

from convatlas.data.images import jpeg_header, orientation
from convatlas.data.images.deep_pixels import BIT_DEPTH_RANGE, DEEP_MODES, ValueRange, deep_values, to_uint8
from convatlas.data.images.file_format import FORMATS
from convatlas.data.images.unreadable import UnreadableImage, UnreadableOnError
from convatlas.errors import UserError
from convatlas.storage.regular_file import read_regular

EXTENSIONS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm"),
)
MAX_PIXELS = 100_000_000
# of images that are decoded to at most MAX_PIXELS
MAX_REDUCIBLE_PIXELS = MAX_PIXELS * 3 // 2  # a decoder holds the full image, in 4 bytes a pixel
MAX_BASELINE_PIXELS = 4 * MAX_PIXELS  # of JPEGs, whose decoder holds a few rows
MAX_WEBP_PIXELS = MAX_PIXELS // 2  # the decoder holds four copies of an image
# Pixels times scans of a JPEG: a progressive one has ten scans, a hostile one thousands in a few kilobytes.
MAX_SCAN_PIXELS = 20 * MAX_PIXELS
_MIN_SCAN_BYTES = 10
_BAND_PIXELS = 1 << 20  # pixels that are converted at a time
_GRAYSCALE_MODES = ("1", "L", "LA", "I", "F", "I;16", "I;16L", "I;16B")
# libjpeg's messages for missing or wrong entropy-coded data, where a lenient decoder would show grey or noise
_DAMAGE_MESSAGE = re.compile(
    r"premature end|bad Huffman|bad arithmetic|invalid (progressive|scan)|corrupt JPEG data: found marker",
    re.IGNORECASE,
)

Pixels = NDArray[np.uint8]  # (height, width, channels)


class SizedImage(Protocol):
    """What has the height and width of an image."""

    @property
    def height(self) -> int: ...
    @property
    def width(self) -> int: ...


class ImageLike(SizedImage, Protocol):
    """An image whose header has been read. `height` and `width` are those after the EXIF orientation."""

    def decode(
        self, channels: int, min_size: tuple[int, int], value_range: ValueRange | None = None
    ) -> Pixels:
        """Decode the full image, uint8; a decoder may reduce it, but not below `min_size` (height, width)
        unless that has more than MAX_PIXELS.

        `value_range` are the values of pixels of more than 8 bits that become 0 and 255. Raises
        UnreadableImage.
        """


class DecodedImage:
    """An image whose pixels are in memory: (height, width, channels)."""

    def __init__(self, array: Pixels):
        self.array = array
        self.height, self.width = array.shape[:2]

    def decode(
        self,
        channels: int,
        min_size: tuple[int, int] = (0, 0),
        value_range: ValueRange | None = None,
    ) -> Pixels:
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

    The EXIF orientation is applied, transparency is composited on white, and more than 8 bits are reduced to
    8 by the scale of a data set: no pixel depends on another.
    """

    def __init__(self, data: bytes, name: str):
        self.data = data
        self.name = name
        with UnreadableOnError(name):
            if not data:
                raise UnreadableImage(name, "the file is empty")
            jpeg_size = jpeg_header.read_size(data)
            self.uses_libjpeg_turbo = jpeg_size is not None
            height, width = jpeg_size or self.pil_image.size[::-1]
            self._check_decoding_cost(height, width)
            self.is_huge = height * width > MAX_REDUCIBLE_PIXELS  # a JPEG that only libjpeg-turbo reads
            self.orientation = self._read_orientation()
            # Pillow has already applied the orientation of a TIFF to its size and pixels
            is_oriented = not self.uses_libjpeg_turbo and self.pil_image.format == "TIFF"
            self.pixel_orientation = 1 if is_oriented else self.orientation
            self.transposed = self.pixel_orientation in (5, 6, 7, 8)
            self.height, self.width = (width, height) if self.transposed else (height, width)

    @cached_property
    def pil_image(self) -> Image.Image:
        """The file opened by Pillow, which has read the header only."""
        with without_warnings():
            return Image.open(io.BytesIO(self.data), formats=FORMATS)

    @property
    def is_deep(self) -> bool:
        """Whether a pixel is an integer of more than 8 bits, or a floating point number."""
        return not self.uses_libjpeg_turbo and self.pil_image.mode.startswith(DEEP_MODES)

    def deep_values(self) -> NDArray[np.generic]:
        """The values of an image that is deep: (height, width). Raises UnreadableImage."""
        with UnreadableOnError(self.name), without_warnings():
            self.pil_image.load()
            return deep_values(self.pil_image)

    def decode(
        self, channels: int, min_size: tuple[int, int], value_range: ValueRange | None = None
    ) -> Pixels:
        if channels not in (1, 3):
            raise UserError(
                f"image files have 1 or 3 channels, not the {channels} that this network was built for"
            )
        with UnreadableOnError(self.name):
            pixels = None
            if self.uses_libjpeg_turbo:
                pixels = self._decode_libjpeg_turbo(channels, min_size[::-1] if self.transposed else min_size)
            if pixels is None:
                pixels = self._decode_pillow(channels, value_range)
            return orientation.apply_orientation(pixels, self.pixel_orientation)

    def _check_decoding_cost(self, height: int, width: int) -> None:
        is_jpeg = self.data[:2] == b"\xff\xd8"
        max_pixels = MAX_REDUCIBLE_PIXELS
        if self.uses_libjpeg_turbo:
            if height * width > max_pixels and not jpeg_header.is_progressive(self.data):
                max_pixels = MAX_BASELINE_PIXELS
        elif self.pil_image.format == "WEBP":
            max_pixels = MAX_WEBP_PIXELS
        if width * height > max_pixels:
            raise UnreadableImage(
                self.name, f"{width}x{height} pixels, more than the limit of {max_pixels:,}"
            )
        if is_jpeg and width * height * len(self.data) // _MIN_SCAN_BYTES > MAX_SCAN_PIXELS:
            scans = jpeg_header.count_scans(self.data)
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
        with without_warnings():
            # Pillow opens no file of more than 179 million pixels
            exif = jpeg_header.read_exif(self.data) if self.is_huge else self.pil_image.getexif()
        value = exif.get(orientation.EXIF_TAG, 1)
        return value if value in range(1, 9) else 1

    def _decode_libjpeg_turbo(self, channels: int, min_size: tuple[int, int]) -> Pixels | None:
        """Decode by libjpeg-turbo; None for a file that only Pillow may judge."""
        color_space = "RGB" if channels == 3 else "GRAY"
        if self.height * self.width > MAX_PIXELS:  # sizes up to half of the full one allow half the scale
            height, width = (self.width, self.height) if self.transposed else (self.height, self.width)
            min_size = min(min_size[0], height // 2), min(min_size[1], width // 2)
        try:
            pixels: Pixels = simplejpeg.decode_jpeg(
                self.data, color_space, min_height=min_size[0], min_width=min_size[1]
            )
            return pixels
        except ValueError as error:
            if _DAMAGE_MESSAGE.search(str(error)):
                raise
            if self.is_huge:
                raise
            return None  # stray bytes between segments, or a chroma subsampling that it does not support

    def _decode_pillow(self, channels: int, value_range: ValueRange | None) -> Pixels:
        """Decode by Pillow, without the EXIF orientation.

        Rows are converted in bands: a conversion at once would hold several copies of the image.
        """
        with without_warnings():
            image = self.pil_image
            image.load()
            if self.is_deep and value_range is None:
                value_range = BIT_DEPTH_RANGE.get(image.mode)
                if value_range is None:
                    kind = "floating point numbers" if image.mode == "F" else "integers of 32 bits"
                    raise UnreadableImage(
                        self.name,
                        f"its pixels are {kind}, for which the data set has no scale: convert it to 8 bits",
                    )
            width, height = image.size
            factor = 2 if width * height > MAX_PIXELS else 1
            pixels = np.empty((-(-height // factor), -(-width // factor), channels), np.uint8)
            band_rows = factor * max(1, _BAND_PIXELS // width)
            for top in range(0, height, band_rows):
                band = image.crop((0, top, width, min(top + band_rows, height)))
                if value_range is not None and self.is_deep:
                    band = Image.fromarray(to_uint8(deep_values(band, image), value_range))
                elif image.has_transparency_data:
                    band = band.convert("RGBA")
                    band = Image.alpha_composite(Image.new("RGBA", band.size, "white"), band)
                band = band.convert("L" if channels == 1 else "RGB")
                rows = np.asarray(band.reduce(factor) if factor > 1 else band)
                start = top // factor
                pixels[start : start + len(rows)] = rows.reshape(*rows.shape[:2], channels)
        return pixels


def open_image(path: Path) -> EncodedImage:
    """Read an image file. Raises UnreadableImage, also for a path that is not a file."""
    with UnreadableOnError(str(path)):
        try:
            return EncodedImage(read_regular(path), str(path))
        except IsADirectoryError:
            raise UnreadableImage(str(path), "a folder without images") from None


def is_grayscale(image: EncodedImage) -> bool:
    """Whether the header says that the image has one channel of colour."""
    if image.uses_libjpeg_turbo:  # which reads JPEGs that Pillow refuses
        return bool(simplejpeg.decode_jpeg_header(image.data)[2] == "Gray")
    return image.pil_image.mode in _GRAYSCALE_MODES


@contextmanager
def without_warnings() -> Iterator[None]:
    """Silence Pillow's warnings: each is about an error that is raised below, or about something harmless."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
