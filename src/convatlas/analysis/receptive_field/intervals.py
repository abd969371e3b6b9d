"""Which input pixels a unit sees, along one axis: exact intervals through any window.

A window says which units of its input each unit of its output reads (`Taps`); a `Field` says which pixels each unit of a map sees.
Both repeat: what unit u reads, unit u + period reads `advance` further on. A convolution's pattern has period 1, a transposed
convolution's its stride, an interpolation's the denominator of its scale; so whole numbers suffice, and nothing is approximated.
Borders are left out, as is usual: a map is taken to go on where it is padded, so a field can be larger than the image.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

_NOTHING = (1 << 60, -(1 << 60))  # the interval of a unit that sees no pixel: any hull swallows it


class Extent(NamedTuple):
    """Along one axis, in input pixels."""

    start: int  # first pixel that unit 0 sees; negative in the padding
    size: int  # pixels from the first to the last that one unit sees: the most of all units
    stride: float  # from one unit's pixels to the next unit's; 0.5 where the map is twice as fine as the image


@dataclass(frozen=True, slots=True)
class Window:
    """Unit u of the output reads the units `reads[u % period]` of the input, all moved by `advance` for every whole period."""

    reads: tuple[range, ...]
    advance: int

    @property
    def period(self) -> int:
        return len(self.reads)


def window(kernel: int, stride: int = 1, padding: int = 0, dilation: int = 1) -> Window:
    return Window((range(-padding, -padding + dilation * (kernel - 1) + 1, dilation),), stride)


@lru_cache
def transposed(kernel: int, stride: int, padding: int, dilation: int) -> Window:
    """Input i reaches output i * stride - padding + dilation * j, for each j below `kernel`."""
    reads = []
    for out in range(stride):
        reached = [(out + padding - dilation * j) // stride for j in range(kernel) if (out + padding - dilation * j) % stride == 0]
        step = abs(reached[0] - reached[1]) if len(reached) > 1 else 1
        reads.append(range(min(reached), max(reached) + 1, step) if reached else range(0))
    return Window(tuple(reads), 1)


@lru_cache
def adaptive(units: int, out: int) -> Window:
    """Adaptive pooling: output i covers the share [i, i + 1) * units / out."""
    common = math.gcd(units, out)
    units, out = units // common, out // common
    return Window(tuple(range(i * units // out, -(-(i + 1) * units // out)) for i in range(out)), units)


@lru_cache
def nearest(scale: Fraction, centred: bool = False) -> Window:
    """`scale` input units to one of the output, whose left edge is looked up, or its centre. In whole fractions: where torch's single
    precision falls to the other side of a tie, it reads the next unit."""
    places = [math.floor((i + Fraction(1, 2) * centred) * scale) for i in range(scale.denominator)]
    return Window(tuple(range(place, place + 1) for place in places), scale.numerator)


@lru_cache
def interpolated(scale: Fraction, before: int, after: int, corners: bool = False, antialias: bool = False) -> Window:
    """Linear (before 0, after 1) and cubic (1, 2) interpolation: the units around each sampled place, those of weight 0 left out."""
    reads = []
    for i in range(scale.denominator):
        place = i * scale if corners else (i + Fraction(1, 2)) * scale - Fraction(1, 2)
        first = math.floor(place)
        if antialias and scale > 1:
            reach = after * scale  # the kernel is widened so that no unit is skipped
            reads.append(range(math.floor(place - reach) + 1, math.ceil(place + reach)))
        else:
            reads.append(range(first, first + 1) if place == first else range(first - before, first + after + 1))
    return Window(tuple(reads), scale.numerator)


def repeated(times: int) -> Window:
    """Each unit stands `times` times in a row."""
    return Window((range(1),) * times, 1)


@dataclass(frozen=True, slots=True)
class Field:
    """Unit u sees pixels low[u % period] to high[u % period], all moved by stride * period for every whole period.

    A field that stands still is the same for every unit, and `stride` is that of the units' places alone: what a gate computed from the
    whole image has touched.
    """

    low: tuple[int, ...] = (0,)
    high: tuple[int, ...] = (0,)
    stride: Fraction = Fraction(1)
    is_global: bool = False

    def at(self, unit: int) -> tuple[int, int] | None:
        """First and last pixel; None where a unit sees none."""
        turns, phase = divmod(unit, len(self.low))
        moved = 0 if self.is_global else int(self.stride * len(self.low)) * turns  # whole pixels, as every period is chosen
        low, high = self.low[phase], self.high[phase]
        return (low + moved, high + moved) if low <= high else None

    def hull(self, units: Iterable[int]) -> tuple[int, int]:
        """The smallest interval that covers what these units see."""
        seen = [pixels for unit in units if (pixels := self.at(unit))]
        return (min(low for low, _ in seen), max(high for _, high in seen)) if seen else _NOTHING

    def through(self, taps: Window) -> "Field":
        return _through(self, taps)

    def to_global(self, units: int) -> "Field":
        """The field that stands still over what all the first `units` units see."""
        low, high = self.hull(range(units)) if self.is_global or len(self.low) > 1 else self.hull((0, units - 1))
        return Field((low,), (high,), self.stride, is_global=True)

    def union(self, other: "Field", units: int) -> "Field":
        """The smallest intervals that cover both, for a map of `units` units."""
        return self if self == other else _joined(self, other, units)

    @property
    def extent(self) -> Extent:
        size = max(max(high - low + 1, 0) for low, high in zip(self.low, self.high, strict=True))
        stride = int(self.stride) if self.stride.denominator == 1 else float(self.stride)
        first = self.at(0)
        return Extent(first[0] if first else 0, size, stride)


@lru_cache(maxsize=4096)
def _through(field: Field, taps: Window) -> Field:
    stride = field.stride * taps.advance / taps.period
    if field.is_global:
        return Field(field.low, field.high, stride, is_global=True)
    inner = len(field.low)
    if inner == 1:
        seen = [field.hull((reads[0], reads[-1])) if reads else _NOTHING for reads in taps.reads]
    else:
        turns = inner // math.gcd(inner, taps.advance)
        seen = [field.hull(r + taps.advance * turn for r in reads) for turn in range(turns) for reads in taps.reads]
    return _shortest(seen, stride)


@lru_cache(maxsize=4096)
def _joined(one: Field, other: Field, units: int) -> Field:
    if one.is_global or other.is_global:
        a, b = one.to_global(units), other.to_global(units)
        moving = other if one.is_global else one
        return Field((min(a.low[0], b.low[0]),), (max(a.high[0], b.high[0]),), moving.stride, is_global=True)
    stride, period = max(one.stride, other.stride), math.lcm(len(one.low), len(other.low))
    if one.stride != other.stride:  # nothing repeats: each unit is held by itself, and some more, so that all move by whole pixels
        period = -(-units // stride.denominator) * stride.denominator
    seen = []
    for unit in range(period):
        first, second = one.at(unit) or _NOTHING, other.at(unit) or _NOTHING
        seen.append((min(first[0], second[0]), max(first[1], second[1])))
    return _shortest(seen, stride)


def _shortest(seen: list[tuple[int, int]], stride: Fraction) -> Field:
    """The field with the shortest period that says the same."""
    whole = len(seen)
    for period in range(1, whole // 2 + 1):
        moved = stride * period
        if whole % period or moved.denominator != 1:
            continue
        if all(seen[i] == _moved(seen[i - period], int(moved)) for i in range(period, whole)):
            seen = seen[:period]
            break
    return Field(tuple(low for low, _ in seen), tuple(high for _, high in seen), stride)


def _moved(pixels: tuple[int, int], by: int) -> tuple[int, int]:
    return pixels if pixels == _NOTHING else (pixels[0] + by, pixels[1] + by)
