"""Labels as text become numbers: the places of classes in their order."""

import re
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from convatlas.errors import UserError, printable

MAX_LENGTH = 1_000  # characters of a class's name
_WHOLE = re.compile(r"-?[0-9]{1,18}")


def encode_labels(labels: Iterable[str]) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """The classes, and of each label the place of its class among them."""
    seen: dict[str, int] = {}
    found = np.fromiter((seen.setdefault(label, len(seen)) for label in labels), np.int64)
    classes = sort_classes(seen)
    place = np.argsort([seen[name] for name in classes])
    return classes, place[found]


def sort_classes(classes: Iterable[str]) -> tuple[str, ...]:
    """By number where all are whole numbers, else by name."""
    classes = sorted(classes)
    return tuple(sorted(classes, key=int) if are_numbers(classes) else classes)


def are_numbers(classes: Iterable[str]) -> bool:
    return all(_WHOLE.fullmatch(name) for name in classes)


def validate_class_name(label: str, where: str) -> str:
    """A class's name without the space around it. Raises UserError for one that is empty, long, or more than a line."""
    label = label.strip()
    if len(label.splitlines()) != 1 or len(label) > MAX_LENGTH or "\0" in label:
        shown = f"{label[:40]}..." if len(label) > 40 else label
        raise UserError(f"{where} has the label {printable(shown)!r}: expected a class's name or number, one line of text")
    return label
