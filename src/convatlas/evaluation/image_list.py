"""Lists of some of a split's images in a text file, such as the validation images that are not blacklisted
(arXiv:1512.00567, sec. 10)."""

from pathlib import Path

import numpy as np

from convatlas.data import Split
from convatlas.errors import UsageError, UserError, printable
from convatlas.evaluation.metrics import Labels
from convatlas.names import unescape_name
from convatlas.storage.regular_file import open_regular

MAX_BYTES = 64 << 20
MAX_SHOWN_CHARACTERS = 200  # of a line in a message


def read_image_list(file: Path, split: Split, split_name: str) -> Labels:
    """Read the names of images, one a line: their indices in the split, in the split's order.

    A name is a file's name, preceded by as many of its folders as distinguish it from other files. Raises
    UsageError for a name that is no image of the split, is that of two images, or is listed twice; UserError
    for a file that is no list. `split_name` names the split in messages.
    """
    lines = _read_lines(file)
    indices_by_name: dict[str, list[int]] = {}
    for index in range(len(split)):
        indices_by_name.setdefault(_base_name(split.images.name(index)), []).append(index)
    line_of_index: dict[int, int] = {}
    for number, line in lines:
        name = unescape_name(line)
        matches = [
            index
            for index in indices_by_name.get(_base_name(name), [])
            if f"/{split.images.name(index)}".endswith(f"/{name.removeprefix('/')}")
        ]
        position = f"{printable(file)}, line {number}: '{printable(line[:MAX_SHOWN_CHARACTERS])}'"
        if not matches:
            example = printable(split.images.name(0))
            raise UsageError(
                f"{position} is no image of {split_name}: expected names such as {example}, "
                "with or without the folders"
            )
        if len(matches) > 1:
            first, second = (printable(split.images.name(index)) for index in matches[:2])
            raise UsageError(f"{position} may be {first} or {second}: name the folder too")
        index = matches[0]
        if index in line_of_index:
            raise UsageError(f"{position} is the image of line {line_of_index[index]} again: name each once")
        line_of_index[index] = number
    return np.array(sorted(line_of_index), np.int64)


def _read_lines(file: Path) -> list[tuple[int, str]]:
    """The lines that are not empty, with their numbers from 1."""
    expected = "expected a list of image names, one a line"
    try:
        with open_regular(file) as stream:
            content = stream.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise UserError(f"{printable(file)} is larger than {MAX_BYTES:,} bytes: {expected}")
        text = content.decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"cannot read {printable(file)} ({error.strerror}): {expected}") from None
    except UnicodeDecodeError:
        raise UserError(f"{printable(file)} is no text in UTF-8: {expected}") from None
    lines = [(number, line.strip()) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not lines:
        raise UserError(f"{printable(file)} names no image: {expected}")
    return lines


def _base_name(name: str) -> str:
    return name.rpartition("/")[2]
