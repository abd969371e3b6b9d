"""The images that callers of `predict` have: paths, encoded bytes, PIL images, arrays and tensors."""

import io
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from convatlas.data.images.decode import DecodedImage, EncodedImage, ImageLike, open_image
from convatlas.data.images.unreadable import UnreadableImage
from convatlas.errors import UsageError, printable

ImageInput = (
    str | os.PathLike[str] | bytes | bytearray | memoryview | Image.Image | np.ndarray[Any, Any] | Tensor
)
"""A path; the bytes of an image file; a PIL image; RGB or grey pixels, uint8, (height, width, channels) or
(height, width)"""

_SINGLE = (str, os.PathLike, bytes, bytearray, memoryview, Image.Image, np.ndarray, Tensor)

EXPECTED = (
    "a path, the bytes of an image file, a PIL image, or an array or tensor of RGB or grey pixels, uint8 "
    "from 0 to 255, of shape (height, width, channels) or (height, width)"
)


def iterate_images(images: Any) -> Iterator[Any]:
    """Yield each of several images, or the only one. Raises UsageError for what holds no images."""
    if isinstance(images, str | os.PathLike) and os.path.isdir(images):
        raise UsageError(
            f"{printable(images)} is a folder: give its files, or use the command convatlas predict, which "
            "takes folders"
        )
    if isinstance(images, _SINGLE) or hasattr(images, "read"):
        return iter([images])
    if isinstance(images, Mapping) or not isinstance(images, Iterable):
        raise UsageError(
            f"cannot read images from a {type(images).__name__}: expected {EXPECTED}, or a list of them"
        )
    return iter(images)


def image_name(image: Any, index: int) -> str:
    """The path, or for what has no name `image 3`: its position."""
    return str(image) if isinstance(image, str | os.PathLike) else f"image {index}"


def read_image(image: Any, name: str) -> ImageLike:
    """An image of any of the kinds of `ImageInput`, or an open binary file.

    Raises UnreadableImage for a file or bytes that are no image, UsageError for anything else.
    """
    if isinstance(image, str | os.PathLike):
        if str(image).startswith(("http://", "https://")):
            raise UsageError(f"{printable(image)} is an address: download it, and give the file or its bytes")
        return open_image(Path(image))
    if isinstance(image, bytes | bytearray | memoryview):
        return EncodedImage(bytes(image), name)
    if isinstance(image, Image.Image):
        return _read_pil_image(image, name)
    if isinstance(image, np.ndarray | Tensor):
        return DecodedImage(_read_pixels(image, name))
    data = image.read() if hasattr(image, "read") else None
    if isinstance(data, bytes):
        return EncodedImage(data, name)
    raise UsageError(f"{name} is a {type(image).__name__}: expected {EXPECTED}")


def _read_pil_image(image: Image.Image, name: str) -> ImageLike:
    """The pixels of a PIL image as those of its file: the EXIF orientation is applied, and transparency, 16
    bits and other colours are converted by the same code."""
    try:
        if image.mode in ("RGB", "L") and not image.has_transparency_data:
            upright = ImageOps.exif_transpose(image)
            pixels = np.asarray(upright)
            return DecodedImage(pixels.reshape(*pixels.shape[:2], -1))
        file = io.BytesIO()
        if image.mode in ("I", "F"):
            image.save(file, "TIFF")
        elif image.mode in ("1", "L", "LA", "I;16", "P", "RGB", "RGBA"):
            image.save(file, "PNG", compress_level=1, exif=image.getexif())
        else:
            ImageOps.exif_transpose(image).convert("RGB").save(file, "PNG", compress_level=1)
    except (OSError, ValueError, SyntaxError) as error:  # of a file that PIL reads only now
        raise UnreadableImage(name, f"PIL cannot read it ({error})") from None
    return EncodedImage(file.getvalue(), name)


def _read_pixels(image: np.ndarray[Any, Any] | Tensor, name: str) -> np.ndarray[Any, Any]:
    """uint8 pixels (height, width, channels). Raises UsageError for what could mean several things."""
    kind = "a tensor" if isinstance(image, Tensor) else "an array"
    shape = tuple(image.shape)
    hint = ""
    if len(shape) == 4:
        hint = ": a batch is given as a list of images"
    elif len(shape) == 3 and shape[2] not in (1, 3) and shape[0] in (1, 3):
        permute = "permute" if isinstance(image, Tensor) else "transpose"
        hint = f": channels come last, as after image.{permute}(1, 2, 0)"
    elif image.dtype not in (np.uint8, torch.uint8):
        hint = ": convert its values to 0 to 255"
    elif not (len(shape) in (2, 3) and 0 not in shape):
        hint = ": it is no image"
    if hint:
        dtype = str(image.dtype).removeprefix("torch.")
        raise UsageError(
            f"{name} is {kind} of {dtype} and shape {shape}{hint}; expected RGB or grey pixels, uint8 from 0 "
            "to 255, of shape (height, width, channels) or (height, width)"
        )
    pixels = image.detach().cpu().numpy() if isinstance(image, Tensor) else image
    return np.ascontiguousarray(pixels if len(shape) == 3 else pixels[:, :, None])
