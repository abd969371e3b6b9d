"""Numbers and durations as people read them."""

import math

RUN_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"  # the names of compared runs in tables and plots


def format_si(count: float, unit: str = "") -> str:
    """1.82 G: three digits and a power of a thousand."""
    if not count:
        return "-"
    power = min(int(math.log10(abs(count)) // 3), 4) if abs(count) >= 1 else 0
    value = count / 1000**power
    digits = 0 if power == 0 and float(count).is_integer() else max(0, 2 - int(math.log10(abs(value)) if abs(value) >= 1 else 0))
    return f"{value:.{digits}f} {('', 'k', 'M', 'G', 'T')[power]}{unit}".rstrip()


def format_duration(seconds: float) -> str:
    """`45 s`, `3 min 20 s`, `2 h 5 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
