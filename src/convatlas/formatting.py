"""Numbers and durations, formatted for people."""

import math
from collections.abc import Iterable

RUN_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"  # the names of compared runs in tables and plots


def format_si(count: float, unit: str = "") -> str:
    """Format a number with three digits and an SI prefix, such as `1.82 G`."""
    if not count:
        return "-"
    power = min(int(math.log10(abs(count)) // 3), 4) if abs(count) >= 1 else 0
    value = count / 1000**power
    integer_digits = 1 + int(math.log10(abs(value))) if abs(value) >= 1 else 1
    decimals = 0 if power == 0 and float(count).is_integer() else max(0, 3 - integer_digits)
    return f"{value:.{decimals}f} {('', 'k', 'M', 'G', 'T')[power]}{unit}".rstrip()


def format_duration(seconds: float) -> str:
    """Format a duration as `45 s`, `3 min 20 s` or `2 h 5 min`."""
    total = round(seconds)
    if total < 60:
        return f"{total} s"
    if total < 3600:
        return f"{total // 60} min {total % 60:02d} s"
    return f"{total // 3600} h {total % 3600 // 60:02d} min"


def describe_edits(edits: Iterable[object]) -> str:
    """The edits behind a network's name: " with SwapActivation(to=tanh)"; "" for none."""
    texts = [str(edit) for edit in edits]
    return f" with {' and '.join(texts)}" if texts else ""
