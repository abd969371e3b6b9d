"""Labels as text: the names that a class may have, the order of classes, and the index of every label."""

import re
import unicodedata
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from convatlas.errors import UserError, printable

MAX_LENGTH = 1_000  # characters of a class's name
_WHOLE_NUMBER = re.compile(r"-?[0-9]{1,18}")


def encode_labels(labels: Iterable[str]) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """The classes in order, and the label of each sample as an index into them (n,)."""
    codes: dict[str, int] = {}  # of every class, in the order in which they first occur
    encoded = np.fromiter((codes.setdefault(label, len(codes)) for label in labels), np.int64)
    classes = sort_classes(codes)
    index_by_code = np.argsort([codes[name] for name in classes])
    return classes, index_by_code[encoded]


def sort_classes(classes: Iterable[str]) -> tuple[str, ...]:
    """By value if all are whole numbers, else alphabetically."""
    names = sorted(classes)
    return tuple(sorted(names, key=int) if are_numbers(names) else names)


def are_numbers(classes: Iterable[str]) -> bool:
    """Whether all names are whole numbers."""
    return all(_WHOLE_NUMBER.fullmatch(name) for name in classes)


def validate_class_name(label: str, position: str) -> str:
    """A class's name without the space around it, in Unicode's composed form (NFC).

    Raises UserError, which starts with `position`, for a name that is empty, too long, or more than one line.
    """
    name = unicodedata.normalize("NFC", label.strip())
    if len(name.splitlines()) != 1 or len(name) > MAX_LENGTH or "\0" in name:
        excerpt = f"{name[:40]}..." if len(name) > 40 else name
        raise UserError(
            f"{position} has the label {printable(excerpt)!r}: expected a class's name or number, one line "
            "of text"
        )
    return name
