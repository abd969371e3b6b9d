"""Some of a split's images, named in a file: such as the validation images that are not blacklisted (arXiv:1512.00567, sec. 10)."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from convatlas.data import Split
from convatlas.data.dataset import ArrayImages, Subset
from convatlas.errors import UsageError, UserError, printable

MAX_BYTES = 64 << 20


def read_image_list(file: Path, split: Split, called: str) -> NDArray[np.int64]:
    """The places in the split of the images that the file names, one a line, in the split's order. A name is a file's, with as many of
    its folders as tell it from others. Raises UsageError for a name that the split does not have, has twice, or that stands there twice.
    """
    lines = _lines(file)
    known: dict[str, list[int]] = {}
    for index in range(len(split)):
        known.setdefault(_last(split.images.name(index)), []).append(index)
    found: dict[int, int] = {}
    for number, line in lines:
        here = [i for i in known.get(_last(line), []) if f"/{split.images.name(i)}".endswith(f"/{line.removeprefix('/')}")]
        where = f"{printable(file)}, line {number}: {printable(line[:200])!r}"
        if not here:
            first = printable(split.images.name(0))
            raise UsageError(f"{where} is no image of {called}: expected names such as {first}, with or without the folders")
        if len(here) > 1:
            one, other = (printable(split.images.name(i)) for i in here[:2])
            raise UsageError(f"{where} may be {one} or {other}: name the folder too")
        if here[0] in found:
            raise UsageError(f"{where} is the image of line {found[here[0]]} again: name each once")
        found[here[0]] = number
    return np.array(sorted(found), np.int64)


def choose(split: Split, indices: NDArray[np.int64]) -> Split:
    """The split's samples at these places."""
    images = split.images
    return Split(ArrayImages(images.array[indices]) if isinstance(images, ArrayImages) else Subset(images, indices), split.labels[indices])


def _lines(file: Path) -> list[tuple[int, str]]:
    try:
        if file.stat().st_size > MAX_BYTES:
            raise UserError(f"{printable(file)} is larger than {MAX_BYTES:,} bytes: expected a list of image names, one a line")
        text = file.read_text("utf-8-sig")
    except OSError as error:
        raise UserError(f"cannot read {printable(file)} ({error.strerror}): expected a list of image names, one a line") from None
    except UnicodeDecodeError:
        raise UserError(f"{printable(file)} is no text in UTF-8: expected a list of image names, one a line") from None
    lines = [(number, line.strip()) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not lines:
        raise UserError(f"{printable(file)} names no image: expected a list of image names, one a line")
    return lines


def _last(name: str) -> str:
    return name.rpartition("/")[2]
