"""What the headers of a JPEG say, without decoding it (ITU-T T.81, B.1 and B.2)."""

from collections.abc import Iterator

import simplejpeg
from PIL import Image

_FRAMES = (0xC0, 0xC1, 0xC2)  # start of frame: baseline, extended sequential, progressive
_SCAN = 0xDA
_APP1 = 0xE1
_EXIF = b"Exif\0\0"


def read_size(data: bytes) -> tuple[int, int] | None:
    """The (height, width) of a JPEG for libjpeg-turbo; None for CMYK and other formats, left to Pillow."""
    if data[:3] != b"\xff\xd8\xff":
        return None
    try:
        height, width, color_space, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return None
    return (height, width) if color_space in ("YCbCr", "Gray", "RGB") else None


def read_exif(data: bytes) -> Image.Exif:
    """The first EXIF segment; empty if there is none."""
    exif = Image.Exif()
    for marker, start in _segments(data):
        end = start + 2 + int.from_bytes(data[start + 2 : start + 4], "big")
        if marker == _APP1 and data[start + 4 : end].startswith(_EXIF):
            exif.load(data[start + 4 : end])
            break
    return exif


def is_progressive(data: bytes) -> bool:
    """Whether a decoder must hold the coefficients of the full image: also where the scans are not those of
    one interleaved baseline image."""
    return count_scans(data) != 1


def count_scans(data: bytes) -> int:
    """An upper bound of the scans that libjpeg would decode."""
    components = 0
    progressive = False
    start = 2
    for marker, start in _segments(data):
        if marker == _SCAN and not progressive and data[start + 4] == components:
            return 1  # one scan has all components: libjpeg does not read what follows
        if marker in _FRAMES:
            progressive = marker == 0xC2
            components = data[start + 9]
        elif marker == _SCAN:
            break
    return data.count(b"\xff\xda", start)


def _segments(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield the marker and the start of each segment up to the first that is not in its place."""
    start = 2
    while data[start : start + 1] == b"\xff" and start + 9 < len(data):
        yield data[start + 1], start
        start += 2 + int.from_bytes(data[start + 2 : start + 4], "big")
