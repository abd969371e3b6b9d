"""The range of every number of a run: what lies outside is a slip of the pen or an attack, and would end in
an error far from its cause, or in none."""

import math
from collections.abc import Iterator
from typing import Any

import msgspec

from convatlas.errors import UsageError

_POSITIVE = math.nextafter(0.0, 1.0)
_BELOW_ONE = math.nextafter(1.0, 0.0)
_SIDE = (1, 1 << 14)  # pixels
_COUNT = (0, 1_000_000_000)
_FRACTION = (0, 1)
_FACTOR = (0, 1_000_000)
_RATE = (0, 1e30)
_OTHERS = (-1e12, 1e12)

# By the last names of a field's path, the longest first. A rate may be absurdly high: the loss shows it.
RANGES: dict[str, tuple[float, float]] = {
    "augment.factor": (0, 1000),
    "clip.norm": (_POSITIVE, 1e30),
    "clip.value": (_POSITIVE, 1e30),
    "normalize.scale": (_POSITIVE, 1_000_000),
    "crop.scale": (0.001, 16),
    "preprocessing.scale": (0.001, 16),
    "elastic.std": (0, 10_000),
    "budget.count": (_POSITIVE, 1_000_000_000),
    "seed": (0, (1 << 63) - 1),
    "batch": (1, 1_000_000),
    "micro_batch": (1, 1_000_000),
    "evaluation_batch": (1, 1_000_000),
    "log_every": (1, 1_000_000_000),
    "save_every": _COUNT,
    "validate_every": _COUNT,
    "probes.images": (1, 1_000_000),
    "probes.steps": (0, 1_000_000),
    "lr": _RATE,
    "final_lr": _RATE,
    "bias_lr": _FACTOR,
    "weight_decay": _FACTOR,
    "momentum": _FRACTION,
    "alpha": _FRACTION,
    "rho": _FRACTION,
    "betas": (0, _BELOW_ONE),
    "eps": _FRACTION,
    "initial": _FACTOR,
    "momentum_decay": _FRACTION,
    "gamma": (_POSITIVE, 1),
    "milestones": _FRACTION,
    "factors": _FACTOR,
    "warmup_fraction": (0, _BELOW_ONE),
    "start": _FACTOR,
    "end": _FACTOR,
    "factor": _FRACTION,
    "num_drops": _FACTOR,
    "power": (0, 1000),
    "fraction": _FRACTION,
    "label_smoothing": _FRACTION,
    "patience": _COUNT,
    "threshold": _FRACTION,
    "most": _COUNT,
    "area": (_POSITIVE, 1),
    "aspect": (0.001, 1000),
    "resize_range": _SIDE,
    "crop": _SIDE,
    "side": _SIDE,
    "padding": (0, 1 << 14),
    "std": (0, 1_000_000),
    "grid": (2, 1000),
    "eval_resize_ratio": (0.1, 16),
    "auxiliary": _FACTOR,
    "rms": (_POSITIVE, 1_000_000),
    "decay": _FRACTION,
    "image_size": _SIDE,
    "input_size": _SIDE,
    "resize_size": _SIDE,
    "channels": (1, 10_000),
    "margin": (0, 1 << 13),
    "stride": (1, 1 << 13),
    "ignore": (0, 255),
    "border_weight": _FACTOR,
    "border_sigma": (_POSITIVE, 1_000_000),
    "counts": (0, 1_000_000_000_000),
}


def check_numbers(record: object, path: str = "") -> None:
    """Raises UsageError, which names the field, its value and its range, for the first number outside.

    `record` may be a document; `path` is its own, in a larger one.
    """
    for name, value in _numbers(msgspec.to_builtins(record), path):
        if problem := _problem(value, name):
            raise UsageError(f"{name} {problem}: give another with --set {name}=N")


def check_option(option: str, value: float | None, path: str) -> None:
    """Raises UsageError, which names the option, for a number that the field at `path` cannot be."""
    if value is not None and (problem := _problem(value, path)):
        raise UsageError(f"{option} {problem}")


def _problem(value: float, path: str) -> str:
    """What a number of the field at a path should be; "" for one inside the range."""
    low, high = range_of(path)
    if low <= value <= high:  # false for NaN, too
        return ""
    shown = f"{value:g}" if isinstance(value, float) else _shorten(str(value))
    return f"should be {_describe(low, high)}, not {shown}"


def range_of(path: str) -> tuple[float, float]:
    """The smallest and the largest number that the field at a path, such as recipe.optimizer.lr, may be."""
    names = [name for name in path.split(".") if not name.isdigit()]
    for first in range(len(names)):
        key = ".".join(names[first:])
        if key in RANGES:
            return RANGES[key]
    if len(names) > 1 and names[-2] in RANGES:  # a number of a mapping, such as a head's weight
        return RANGES[names[-2]]
    return _OTHERS


def _numbers(value: Any, path: str) -> Iterator[tuple[str, int | float]]:
    """Every number inside a document, with its path."""
    if isinstance(value, dict):
        for key, child in value.items():
            yield from _numbers(child, f"{path}.{key}" if path else key)
    elif isinstance(value, list | tuple):
        for index, child in enumerate(value):
            yield from _numbers(child, f"{path}.{index}")
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield path, value


def _describe(low: float, high: float) -> str:
    first = "more than 0" if low == _POSITIVE else f"{low:,g}" if isinstance(low, float) else f"{low:,}"
    if high == _BELOW_ONE:
        return f"{first} or more, and below 1"
    last = f"{high:,g}" if isinstance(high, float) else f"{high:,}"
    return f"{first} and at most {last}" if low == _POSITIVE else f"{first} to {last}"


def _shorten(digits: str) -> str:
    return digits if len(digits) <= 24 else f"{digits[:8]}... ({len(digits)} digits)"
