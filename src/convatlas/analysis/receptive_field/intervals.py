"""Receptive fields along one axis: exact intervals of input pixels, through any window.

A `Window` lists the input units that each output unit reads. A `Field` holds the interval of pixels that each
unit of a feature map depends on. Both are periodic: unit u + period reads what unit u reads, `advance` units
further on. The period of a convolution is 1, that of a transposed convolution its stride, that of an
interpolation the denominator of its scale. So integers suffice, and nothing is approximated.

Borders are ignored, as is usual: a padded map is treated as if it continued. A field can exceed the image.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

_EMPTY = (1 << 60, -(1 << 60))  # the interval of a unit that depends on no pixel; neutral in a hull


class Extent(NamedTuple):
    """The receptive field of a map along one axis, in input pixels."""

    start: int  # first pixel of unit 0; negative in the padding
    size: int  # pixels from the first to the last of one unit: the maximum over the units
    stride: float  # pixels from one unit to the next; 0.5 where the map is twice as fine as the image


@dataclass(frozen=True, slots=True)
class Window:
    """Output unit u reads the input units `reads[u % period]`, shifted by `advance` for every full period."""

    reads: tuple[range, ...]
    advance: int

    @property
    def period(self) -> int:
        return len(self.reads)


def sliding_window(kernel: int, stride: int = 1, padding: int = 0, dilation: int = 1) -> Window:
    """The window of a convolution or a pooling."""
    return Window((range(-padding, -padding + dilation * (kernel - 1) + 1, dilation),), stride)


@lru_cache
def transposed_window(kernel: int, stride: int, padding: int, dilation: int) -> Window:
    """The window of a transposed convolution.

    Input i reaches output i * stride - padding + dilation * j, for each j below `kernel`.
    """
    reads = []
    for output in range(stride):
        offsets = [output + padding - dilation * j for j in range(kernel)]
        inputs = [offset // stride for offset in offsets if offset % stride == 0]
        step = abs(inputs[0] - inputs[1]) if len(inputs) > 1 else 1
        reads.append(range(min(inputs), max(inputs) + 1, step) if inputs else range(0))
    return Window(tuple(reads), 1)


@lru_cache
def adaptive_window(input_size: int, output_size: int) -> Window:
    """The window of adaptive pooling: output i covers the share [i, i + 1) * input_size / output_size."""
    divisor = math.gcd(input_size, output_size)
    num_in, num_out = input_size // divisor, output_size // divisor
    reads = tuple(range(i * num_in // num_out, -(-(i + 1) * num_in // num_out)) for i in range(num_out))
    return Window(reads, num_in)


@lru_cache
def fractional_window(input_size: int, output_size: int, kernel: int) -> Window:
    """The window of fractional max pooling: output i reads `kernel` units from one of the two whole numbers
    next to i * (input_size - kernel) / (output_size - 1) on, drawn anew in every forward (arXiv:1412.6071).
    """
    if output_size == 1:
        return Window((range(input_size - kernel, input_size),), input_size)
    step = Fraction(input_size - kernel, output_size - 1)
    reads = [range(math.floor(i * step), math.ceil(i * step) + kernel) for i in range(step.denominator)]
    return Window(tuple(reads), step.numerator)


@lru_cache
def nearest_window(scale: Fraction, centred: bool = False) -> Window:
    """The window of nearest-neighbour resizing, `scale` input units to one output unit.

    The input unit is looked up at the output unit's left edge, or at its centre (`centred`). Positions are
    exact fractions; where torch's single precision rounds a tie the other way, torch reads the next unit.
    """
    units = [math.floor((i + Fraction(1, 2) * centred) * scale) for i in range(scale.denominator)]
    return Window(tuple(range(unit, unit + 1) for unit in units), scale.numerator)


@lru_cache
def interpolation_window(
    scale: Fraction, before: int, after: int, align_corners: bool = False, antialias: bool = False
) -> Window:
    """The window of linear (before 0, after 1) and cubic (before 1, after 2) interpolation.

    Each output unit reads the input units around its sampling position, except those of weight 0.
    """
    reads = []
    for i in range(scale.denominator):
        position = i * scale if align_corners else (i + Fraction(1, 2)) * scale - Fraction(1, 2)
        first = math.floor(position)
        if antialias and scale > 1:
            radius = after * scale  # the kernel is widened so that no unit is skipped
            reads.append(range(math.floor(position - radius) + 1, math.ceil(position + radius)))
        elif position == first:
            reads.append(range(first, first + 1))
        else:
            reads.append(range(first - before, first + after + 1))
    return Window(tuple(reads), scale.numerator)


def repeat_window(repeats: int) -> Window:
    """Each input unit is repeated `repeats` times in a row."""
    return Window((range(1),) * repeats, 1)


@dataclass(frozen=True, slots=True)
class Field:
    """Unit u depends on the pixels low[u % period] to high[u % period].

    They are shifted by stride * period for every full period. A global field is the same for every unit, as
    after a gate computed from the whole image; its `stride` is only that of the units' positions.
    """

    low: tuple[int, ...] = (0,)
    high: tuple[int, ...] = (0,)
    stride: Fraction = Fraction(1)
    is_global: bool = False

    def interval(self, unit: int) -> tuple[int, int] | None:
        """First and last pixel of a unit; None where it depends on no pixel."""
        periods, phase = divmod(unit, len(self.low))
        # A whole number of pixels: every period is chosen so.
        shift = 0 if self.is_global else int(self.stride * len(self.low)) * periods
        low, high = self.low[phase], self.high[phase]
        return (low + shift, high + shift) if low <= high else None

    def hull(self, units: Iterable[int]) -> tuple[int, int]:
        """The smallest interval that covers the intervals of these units."""
        intervals = [interval for unit in units if (interval := self.interval(unit))]
        if not intervals:
            return _EMPTY
        return min(low for low, _ in intervals), max(high for _, high in intervals)

    def through(self, window: Window) -> "Field":
        """The field of the output of a window over a map with this field."""
        return _field_through(self, window)

    def to_global(self, num_units: int) -> "Field":
        """The global field that covers the first `num_units` units."""
        units = range(num_units) if self.is_global or len(self.low) > 1 else (0, num_units - 1)
        low, high = self.hull(units)
        return Field((low,), (high,), self.stride, is_global=True)

    def union(self, other: "Field", num_units: int) -> "Field":
        """The smallest intervals that cover both fields, for a map of `num_units` units."""
        return self if self == other else _union(self, other, num_units)

    @property
    def extent(self) -> Extent:
        size = max(max(high - low + 1, 0) for low, high in zip(self.low, self.high, strict=True))
        stride = int(self.stride) if self.stride.denominator == 1 else float(self.stride)
        first = self.interval(0)
        return Extent(first[0] if first else 0, size, stride)


@lru_cache(maxsize=4096)
def _field_through(field: Field, window: Window) -> Field:
    stride = field.stride * window.advance / window.period
    if field.is_global:
        return Field(field.low, field.high, stride, is_global=True)
    period = len(field.low)
    if period == 1:
        intervals = [field.hull((reads[0], reads[-1])) if reads else _EMPTY for reads in window.reads]
    else:
        repeats = period // math.gcd(period, window.advance)
        intervals = [
            field.hull(unit + window.advance * repeat for unit in reads)
            for repeat in range(repeats)
            for reads in window.reads
        ]
    return _shortest_period(intervals, stride)


@lru_cache(maxsize=4096)
def _union(a: Field, b: Field, num_units: int) -> Field:
    if a.is_global or b.is_global:
        global_a, global_b = a.to_global(num_units), b.to_global(num_units)
        low, high = min(global_a.low[0], global_b.low[0]), max(global_a.high[0], global_b.high[0])
        stride = b.stride if a.is_global else a.stride
        return Field((low,), (high,), stride, is_global=True)
    stride = max(a.stride, b.stride)
    period = math.lcm(len(a.low), len(b.low))
    if a.stride != b.stride:
        # Nothing repeats: each unit gets its interval, and a few more, so that the shift is in whole pixels.
        period = -(-num_units // stride.denominator) * stride.denominator
    intervals = []
    for unit in range(period):
        low_a, high_a = a.interval(unit) or _EMPTY
        low_b, high_b = b.interval(unit) or _EMPTY
        intervals.append((min(low_a, low_b), max(high_a, high_b)))
    return _shortest_period(intervals, stride)


def _shortest_period(intervals: list[tuple[int, int]], stride: Fraction) -> Field:
    """The field with these intervals, given by its shortest period."""
    count = len(intervals)
    for period in range(1, count // 2 + 1):
        shift = stride * period
        if count % period or shift.denominator != 1:
            continue
        if all(intervals[i] == _shift(intervals[i - period], int(shift)) for i in range(period, count)):
            intervals = intervals[:period]
            break
    return Field(tuple(low for low, _ in intervals), tuple(high for _, high in intervals), stride)


def _shift(interval: tuple[int, int], by: int) -> tuple[int, int]:
    return interval if interval == _EMPTY else (interval[0] + by, interval[1] + by)
