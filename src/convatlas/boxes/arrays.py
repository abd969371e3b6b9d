"""Boxes, scores and features as callers have them (NumPy arrays, tensors, lists), checked and in float64."""

from collections.abc import Sequence
from typing import Any, TypeVar, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from convatlas.errors import UsageError

Array = NDArray[np.float64]
Numbers = NDArray[Any] | Sequence[Any]
Values = Numbers | Tensor
T = TypeVar("T", bound=np.generic)

MAX_COORDINATE = 1e9  # pixels; areas and their sums stay far below what float64 can hold
BOXES = "boxes x1, y1, x2, y2 of shape (n, 4)"


def as_float64(values: Values, name: str) -> Array:
    """The values as float64. Raises UsageError for what is no array of real, finite numbers."""
    if isinstance(values, Tensor):
        array = values.detach().cpu().to(torch.float64 if not values.is_complex() else values.dtype).numpy()
    else:
        try:
            array = np.asarray(values)
        except (ValueError, TypeError):
            raise UsageError(f"{name} should be numbers in rows of equal length") from None
    if array.size and array.dtype.kind not in "fiu":
        raise UsageError(f"{name} should be numbers, not of type {array.dtype}")
    array = array.astype(np.float64)
    if not np.isfinite(array).all():
        position = ", ".join(map(str, np.argwhere(~np.isfinite(array))[0]))
        raise UsageError(f"{name}[{position}] is not a finite number")
    return array


def as_rows(values: Values, name: str, columns: int, expected: str) -> Array:
    """(n, columns); an empty list is no rows. Raises UsageError."""
    array = as_float64(values, name)
    if array.shape == (0,):
        return array.reshape(0, columns)
    if array.ndim != 2 or array.shape[1] != columns:
        raise UsageError(f"{name} should be {expected}, not of shape {array.shape}")
    return array


def as_boxes(values: Values, name: str, flat: bool = False) -> Array:
    """Boxes x1, y1, x2, y2 (n, 4) in pixels. `flat`: boxes of no area are accepted.

    Raises UsageError that names the first box that is inverted, has no area, or is not finite.
    """
    boxes = as_rows(values, name, 4, BOXES)
    far = (np.abs(boxes) > MAX_COORDINATE).any(axis=1)
    sides = boxes[:, 2:] - boxes[:, :2]
    for wrong, reason in (
        (far, f"reaches farther than {MAX_COORDINATE:.0e} pixels"),
        ((sides < 0).any(axis=1), "is inverted"),
        ((sides == 0).any(axis=1) & (not flat), "has no area"),
    ):
        if wrong.any():
            index = int(wrong.argmax())
            box = ", ".join(f"{value:g}" for value in boxes[index])
            raise UsageError(f"{name}[{index}] = ({box}) {reason}: expected x1 < x2 and y1 < y2, in pixels")
    return boxes


def as_vector(values: Values, name: str, length: int) -> Array:
    """(length,). Raises UsageError."""
    array = as_float64(values, name)
    if array.shape != (length,):
        raise UsageError(f"{name} should have shape ({length},), one for each box, not {array.shape}")
    return array


def as_labels(values: Values, name: str, length: int) -> NDArray[np.int64]:
    """Class numbers (length,). Raises UsageError for what is no whole number of at least 0."""
    labels = as_vector(values, name, length)
    wrong = (labels < 0) | (labels != np.floor(labels))
    if wrong.any():
        index = int(wrong.argmax())
        raise UsageError(f"{name}[{index}] is {labels[index]:g}: expected a class, a whole number from 0 on")
    return labels.astype(np.int64)


def check_same_length(first: Array, first_name: str, second: Array, second_name: str) -> None:
    if len(first) != len(second):
        raise UsageError(
            f"{first_name} and {second_name} belong together row by row, but there are {len(first)} and "
            f"{len(second)}"
        )


@overload
def same_kind(result: NDArray[T], argument: Tensor) -> Tensor: ...
@overload
def same_kind(result: NDArray[T], argument: Numbers) -> NDArray[T]: ...
def same_kind(result: NDArray[T], argument: Values) -> NDArray[T] | Tensor:
    """A tensor on the argument's device where that is one, floats in its floating type; else the array."""
    if not isinstance(argument, Tensor):
        return result
    tensor = torch.from_numpy(result)
    if tensor.is_floating_point() and argument.is_floating_point():
        tensor = tensor.to(argument.dtype)
    return tensor.to(argument.device)
