"""The idx files of MNIST and Fashion-MNIST, plain or gzipped.

The header and the size of the file are compared before memory is allocated.
Format: two zero bytes, a type (8 is uint8), the number of dimensions, each dimension as a big-endian int32,
and then the values.
"""

import gzip
import math
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from convatlas.errors import UserError
from convatlas.storage.regular_file import open_regular

MAX_BYTES = 4 << 30


def read_idx(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """The array in an idx file. Raises UserError with the file, what was expected and what it holds."""
    try:
        with open_regular(path) as raw:
            if path.suffix != ".gz":
                return _read_array(path, raw, dimensions)
            with gzip.open(raw) as file:
                return _read_array(path, file, dimensions)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} cannot be read ({error}): get the file again") from None


def _read_array(path: Path, file: BinaryIO | gzip.GzipFile, dimensions: int) -> NDArray[np.uint8]:
    header = file.read(4 + 4 * dimensions)
    if header[:4] != bytes([0, 0, 8, dimensions]):
        raise UserError(
            f"{path} starts with {header[:4].hex(' ') or 'nothing'}: expected 00 00 08 0{dimensions}, an idx "
            "file of uint8"
        )
    shape = [int.from_bytes(header[start : start + 4], "big") for start in range(4, len(header), 4)]
    size = math.prod(shape)
    if len(header) < 4 + 4 * dimensions or not 0 < size <= MAX_BYTES:
        raise UserError(
            f"{path} has a damaged header ({'x'.join(map(str, shape))} values): get the file again"
        )
    data = file.read(size + 1)
    if len(data) != size:
        actual = "more" if len(data) > size else f"{len(data):,}"
        raise UserError(
            f"{path} is cut short or too long: expected {size:,} values, found {actual}; get the file again"
        )
    return np.frombuffer(data, np.uint8).reshape(shape)
