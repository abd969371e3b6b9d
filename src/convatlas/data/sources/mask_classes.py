"""The classes of a folder of masks: which id or colour in the files stands for which class.

PATH/classes.txt names the ids 0, 1 and so on, as `class_names` reads it. So does PATH/classes.json, where a
JSON object may also name any ids, or have the name of each class and its colour, [red, green, blue]. Without
such a file the classes are the numbers from 0 to the largest id. The id 255 is ignored, unless a file names
it.
"""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convatlas.data.images.mask import Ids
from convatlas.data.mask import IGNORE, MAX_CLASSES
from convatlas.data.sources.class_names import MAX_BYTES, read_class_names
from convatlas.data.sources.labels import validate_class_name
from convatlas.errors import UserError, printable
from convatlas.storage.records import Record
from convatlas.storage.regular_file import open_regular

FILES = ("classes.txt", "classes.json")


class MaskClasses(Record, frozen=True, kw_only=True):
    """The names of the classes in order, and the id of each in the files: a number, or a colour as a number
    (`images.mask.Ids`)."""

    names: tuple[str, ...]
    ids: tuple[int, ...]
    are_colors: bool = False

    def indices(self, ids: Ids) -> NDArray[np.uint8]:
        """(height, width): the classes' indices, IGNORE where the id is ignored.

        Raises ValueError for an id that is none of them.
        """
        order = np.argsort(self.ids)
        sorted_ids = np.array(self.ids)[order]
        positions = np.searchsorted(sorted_ids, ids).clip(max=len(sorted_ids) - 1)
        indices: NDArray[np.uint8] = order[positions].astype(np.uint8)
        unknown = sorted_ids[positions] != ids
        if unknown.any():
            if not self.are_colors:
                unknown &= ids != IGNORE
            if unknown.any():
                raise ValueError(f"{self.describe(int(ids[unknown][0]))} is none of the classes'")
            indices[sorted_ids[positions] != ids] = IGNORE
        return indices

    def unknown(self, ids: Iterable[int]) -> list[int]:
        """Those of the ids that are neither a class's nor ignored."""
        known = {*self.ids} if self.are_colors else {*self.ids, IGNORE}
        return sorted(set(ids) - known)

    def describe(self, id: int) -> str:
        return f"the colour {color_of(id)}" if self.are_colors else f"the id {id}"


def color_of(id: int) -> list[int]:
    return [id >> 16, id >> 8 & 255, id & 255]


def read_mask_classes(root: Path) -> MaskClasses | None:
    """The classes that a file in `root` names; None where there is none.

    Raises UserError for a file that cannot be read, two of them, too many classes, or an id that two have.
    """
    files = [root / name for name in FILES if (root / name).exists()]
    if not files:
        return None
    if len(files) > 1:
        raise UserError(f"{printable(root)} has both {' and '.join(FILES)}: remove one of them")
    (file,) = files
    document = _read_object(file)
    values = set(map(type, document.values()))
    if values == {str} and all(re.fullmatch("[0-9]{1,5}", key) for key in document):
        id_of = _unique(((name, int(id)) for id, name in document.items()), file)
    elif list in values:
        id_of = _unique(((name, _color_id(name, color, file)) for name, color in document.items()), file)
    else:
        id_of = {name: id for id, name in read_class_names(file).items()}
    _check_number(len(id_of), printable(file))
    return MaskClasses(names=tuple(id_of), ids=tuple(id_of.values()), are_colors=list in values)


def classes_document(classes: MaskClasses) -> dict[str, Any]:
    """The JSON object that `read_mask_classes` reads as these classes."""
    if classes.are_colors:
        return {name: color_of(id) for name, id in zip(classes.names, classes.ids, strict=True)}
    return {str(id): name for name, id in zip(classes.names, classes.ids, strict=True)}


def numbered_classes(ids: Iterable[int], where: str) -> MaskClasses:
    """The classes of masks whose ids no file names: the numbers from 0 to the largest.

    Raises UserError for masks of 0 and 255 alone, where 255 may be a class, and for too many classes.
    """
    present = set(ids)
    if present == {0, IGNORE}:
        raise UserError(
            f"the masks of {where} have no ids but 0 and 255, and 255 marks pixels that are ignored: if it "
            'is a class, name both in classes.json, {"0": "background", "255": "object"}'
        )
    largest = max(present - {IGNORE}, default=0)
    _check_number(largest + 1, where)
    return MaskClasses(names=tuple(map(str, range(largest + 1))), ids=tuple(range(largest + 1)))


def _check_number(count: int, where: str) -> None:
    if count > MAX_CLASSES:
        raise UserError(f"{where} has {count:,} classes: masks may have at most {MAX_CLASSES}")


def _read_object(file: Path) -> dict[str, Any]:
    """The JSON object in a file; empty for anything else, of which the reader of names says what is wrong."""
    if file.suffix != ".json":
        return {}
    try:
        with open_regular(file) as content:
            document = json.loads(content.read(MAX_BYTES))
    except (OSError, ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def _unique(entries: Iterable[tuple[str, int]], file: Path) -> dict[str, int]:
    """The id of each class. Raises UserError for a name or an id that occurs twice."""
    id_of: dict[str, int] = {}
    owner: dict[int, str] = {}
    for text, id in entries:
        name = validate_class_name(text, printable(file))
        if name in id_of:
            raise UserError(
                f"{printable(file)} names the class {printable(name)} twice: each needs its own name"
            )
        if id in owner:
            raise UserError(
                f"{printable(file)} gives {printable(owner[id])} and {printable(name)} the same colour, "
                f"{color_of(id)}: each class needs its own"
            )
        id_of[name] = id
        owner[id] = name
    return id_of


def _color_id(name: str, color: Any, file: Path) -> int:
    is_color = isinstance(color, list) and len(color) == 3
    if not is_color or not all(type(part) is int and 0 <= part <= 255 for part in color):
        raise UserError(
            f"{printable(file)} gives {printable(name)} no colour: expected [red, green, blue], each a "
            "number from 0 to 255"
        )
    red, green, blue = color
    return int(red << 16 | green << 8 | blue)
