"""The format of an image file, by its first bytes and not by its name."""

import re
from pathlib import Path

from convatlas.storage.regular_file import open_regular

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")  # that are read
HEADER_BYTES = 32
_SIGNATURES = {
    "JPEG": rb"\xff\xd8\xff",
    "PNG": rb"\x89PNG\r\n\x1a\n",
    "GIF": rb"GIF8[79]a",
    "WEBP": rb"RIFF.{4}WEBP",
    # "BM" alone also starts texts: the reserved bytes and the size of the header that follows are checked
    "BMP": rb"BM.{4}\0{4}.{4}[\x0c\x28\x34\x38\x40\x6c\x7c]\0{3}",
}


def has_image_signature(header: bytes) -> bool:
    """Whether a file that starts with `header` is an image that is read.

    TIFF is not recognised: the raw files of cameras start like it and hold only a small preview for TIFF's
    readers.
    """
    return any(re.match(signature, header, re.DOTALL) for signature in _SIGNATURES.values())


def is_image_by_content(file: Path) -> bool:
    """Whether a file starts as an image. Raises OSError; also for a pipe and a device."""
    with open_regular(file) as content:
        return has_image_signature(content.read(HEADER_BYTES))
