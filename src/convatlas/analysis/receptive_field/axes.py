"""What every unit of a tensor sees: for each axis of the image its field, and where in the tensor that axis now lies.

An axis lies in one dimension, or in a part of it after maps have been flattened: its index there is (i // block) % units. It lies
nowhere (`dim` None) once all its units have been gathered, as a linear layer over a flattened map does.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from convatlas.analysis.receptive_field.intervals import Field, Window, repeated, window


@dataclass(frozen=True, slots=True)
class Axis:
    field: Field
    dim: int | None
    units: int
    block: int = 1

    def pixels(self, index: int) -> tuple[int, int] | None:
        """First and last pixel seen from this index of its dimension; None where it sees none."""
        return self.field.at(0 if self.dim is None else index // self.block % self.units)

    def reduced(self) -> "Axis":
        """All its units into one."""
        if self.dim is None:
            return self
        return Axis(self.field.through(window(self.units, self.units)), None, 1)

    def shifted(self, by: int) -> "Axis":
        """`by` new dimensions before its own."""
        return self if self.dim is None or not by else replace(self, dim=self.dim + by)

    def to_global(self) -> "Axis":
        """Every unit sees what all of them see: normalisation over the map, attention."""
        return self if self.units == 1 else replace(self, field=self.field.to_global(self.units))

    def unfolded(self, size: int) -> "Axis":
        """The axis as the whole of its dimension, of this size."""
        if self.block * self.units == size:
            return self if self.block == 1 else Axis(self.field.through(repeated(self.block)), self.dim, size)
        return Axis(self.to_global().field, self.dim, size)  # something else moves slower in the same dimension


ImageAxes = tuple[Axis, ...]
"""one `Axis` for each axis of the image"""


def image_axes(shape: Sequence[int], axes: int) -> ImageAxes:
    """An input (batch, channels, axes...): each pixel sees itself."""
    first = len(shape) - axes
    return tuple(Axis(Field(), first + i, shape[first + i]) for i in range(axes))


def windowed(sight: ImageAxes, shape: Sequence[int], out: Sequence[int], taps: Mapping[int, Window]) -> ImageAxes:
    """Windows along some dimensions, which keep their places."""

    def through(axis: Axis) -> Axis:
        if axis.dim is None or axis.dim not in taps:
            return axis
        return Axis(axis.unfolded(shape[axis.dim]).field.through(taps[axis.dim]), axis.dim, out[axis.dim])

    return tuple(map(through, sight))


def permuted(sight: ImageAxes, to: Callable[[int], int | None]) -> ImageAxes:
    """Dimensions change places: `to` gives each its new one; None where it is gone, and its axis gathered."""
    return tuple(
        axis if axis.dim is None else axis.reduced() if (dim := to(axis.dim)) is None else replace(axis, dim=dim) for axis in sight
    )


def reduced(sight: ImageAxes, dims: Collection[int]) -> ImageAxes:
    return tuple(axis.reduced() if axis.dim in dims else axis for axis in sight)


def global_over(sight: ImageAxes, dims: Collection[int]) -> ImageAxes:
    return tuple(axis.to_global() if axis.dim in dims else axis for axis in sight)


def reshaped(sight: ImageAxes, shape: Sequence[int], out: Sequence[int]) -> ImageAxes:
    """The same elements, in the same order, in another shape."""

    def place(axis: Axis) -> Axis:
        if axis.dim is None:
            return axis
        if axis.units == 1:
            return axis.reduced()
        first = axis.block * math.prod(shape[axis.dim + 1 :])  # elements from one unit to the next
        last = first * axis.units
        after = math.prod(out)
        for dim, size in enumerate(out):
            before, after = after, after // size if size else 0
            if after <= first and last <= before and first % after == 0:
                return Axis(axis.field, dim, axis.units, first // after)
            if first < after < last <= before and last % after == 0 and after % first == 0:  # split: the faster part is gathered
                share = after // first
                return Axis(axis.field.through(window(share, share)), dim, last // after)
        return axis.reduced()

    return tuple(map(place, sight))


def broadcast(sights: Sequence[tuple[ImageAxes, Sequence[int]]], out: Sequence[int]) -> ImageAxes:
    """Element by element, each tensor with its shape, smaller ones broadcast as torch does."""
    aligned = [tuple(axis.shifted(len(out) - len(shape)) for axis in sight) for sight, shape in sights]
    result = aligned[0]
    for other in aligned[1:]:
        result = tuple(_joined(a, b) for a, b in zip(result, other, strict=True))
    return result


def _joined(a: Axis, b: Axis) -> Axis:
    if (a.dim, a.units, a.block) == (b.dim, b.units, b.block):
        return replace(a, field=a.field.union(b.field, a.units))
    wide, narrow = (a, b) if a.units >= b.units else (b, a)
    if narrow.units > 1:  # they lie at different places: each unit of one meets all of the other
        wide, narrow = wide.reduced(), narrow.reduced()
    return replace(wide, field=narrow.field.to_global(1).union(wide.field, wide.units))
