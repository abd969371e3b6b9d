"""Image axes of a tensor: the dimension in which each axis of the image lies, and its receptive field there.

An axis lies in one dimension, or in a part of it after maps have been flattened: its unit there is
(index // repeats) % num_units. It lies in no dimension (`dim` is None) once all its units have been reduced
to one, as by a linear layer over a flattened map.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from convatlas.analysis.receptive_field.intervals import Field, Window, repeat_window, sliding_window


@dataclass(frozen=True, slots=True)
class Axis:
    field: Field
    dim: int | None
    num_units: int
    repeats: int = 1  # consecutive indices of the dimension that belong to the same unit

    def interval(self, index: int) -> tuple[int, int] | None:
        """First and last pixel on which this index of the dimension depends; None if there is none."""
        return self.field.interval(0 if self.dim is None else index // self.repeats % self.num_units)

    def reduced(self) -> "Axis":
        """All units into one."""
        if self.dim is None:
            return self
        return Axis(self.field.through(sliding_window(self.num_units, self.num_units)), None, 1)

    def shifted(self, by: int) -> "Axis":
        """The axis after `by` new dimensions were inserted before its own."""
        return self if self.dim is None or not by else replace(self, dim=self.dim + by)

    def to_global(self) -> "Axis":
        """Every unit depends on what all units depend on: normalisation over the map, attention."""
        return self if self.num_units == 1 else replace(self, field=self.field.to_global(self.num_units))

    def filling_dim(self, size: int) -> "Axis":
        """The axis as the whole of its dimension, of this size."""
        if self.repeats * self.num_units == size:
            if self.repeats == 1:
                return self
            return Axis(self.field.through(repeat_window(self.repeats)), self.dim, size)
        # Another axis varies slower in the same dimension.
        return Axis(self.to_global().field, self.dim, size)


ImageAxes = tuple[Axis, ...]
"""One `Axis` for each axis of the image."""


def axes_of_input(shape: Sequence[int], num_axes: int) -> ImageAxes:
    """The image axes of an input (batch, channels, axes...): each unit is a pixel."""
    first = len(shape) - num_axes
    return tuple(Axis(Field(), first + i, shape[first + i]) for i in range(num_axes))


_IDENTITY = sliding_window(1)


def window_axes(
    axes: ImageAxes, shape: Sequence[int], out_shape: Sequence[int], windows: Mapping[int, Window]
) -> ImageAxes:
    """Windows along some dimensions (`windows`, by dimension); the order of the dimensions stays."""

    def through(axis: Axis) -> Axis:
        if axis.dim is None or axis.dim not in windows:
            return axis
        window = windows[axis.dim]
        if window == _IDENTITY and shape[axis.dim] == out_shape[axis.dim]:
            return axis  # which may share its dimension with another
        field = axis.filling_dim(shape[axis.dim]).field.through(window)
        return Axis(field, axis.dim, out_shape[axis.dim])

    return tuple(map(through, axes))


def permute_axes(axes: ImageAxes, new_dim: Callable[[int], int | None]) -> ImageAxes:
    """Dimensions change places: `new_dim` maps each to its new one, or to None where it is removed."""

    def move(axis: Axis) -> Axis:
        if axis.dim is None:
            return axis
        dim = new_dim(axis.dim)
        return axis.reduced() if dim is None else replace(axis, dim=dim)

    return tuple(map(move, axes))


def reduce_axes(axes: ImageAxes, dims: Collection[int]) -> ImageAxes:
    """Each axis in one of these dimensions is reduced to one unit."""
    return tuple(axis.reduced() if axis.dim in dims else axis for axis in axes)


def globalize_axes(axes: ImageAxes, dims: Collection[int]) -> ImageAxes:
    """Each axis in one of these dimensions gets a global field."""
    return tuple(axis.to_global() if axis.dim in dims else axis for axis in axes)


def reshape_axes(axes: ImageAxes, shape: Sequence[int], out_shape: Sequence[int]) -> ImageAxes:
    """The same elements, in the same order, in another shape."""

    def locate(axis: Axis) -> Axis:
        if axis.dim is None:
            return axis
        if axis.num_units == 1:
            return axis.reduced()
        unit_step = axis.repeats * math.prod(shape[axis.dim + 1 :])  # elements from one unit to the next
        axis_step = unit_step * axis.num_units  # elements until the axis repeats
        inner = math.prod(out_shape)
        for dim, size in enumerate(out_shape):
            outer, inner = inner, inner // size if size else 0
            if inner <= unit_step and axis_step <= outer and unit_step % inner == 0:
                return Axis(axis.field, dim, axis.num_units, unit_step // inner)
            if unit_step < inner < axis_step <= outer and axis_step % inner == 0 and inner % unit_step == 0:
                # The axis is split over two dimensions: the faster one is reduced.
                units = inner // unit_step
                return Axis(axis.field.through(sliding_window(units, units)), dim, axis_step // inner)
        return axis.reduced()

    return tuple(map(locate, axes))


def broadcast_axes(inputs: Sequence[tuple[ImageAxes, Sequence[int]]], out_shape: Sequence[int]) -> ImageAxes:
    """Elementwise over several tensors, each given by its axes and its shape, broadcast as torch does."""
    aligned = [tuple(axis.shifted(len(out_shape) - len(shape)) for axis in axes) for axes, shape in inputs]
    result = aligned[0]
    for other in aligned[1:]:
        result = tuple(_union(a, b) for a, b in zip(result, other, strict=True))
    return result


def _union(a: Axis, b: Axis) -> Axis:
    if (a.dim, a.num_units, a.repeats) == (b.dim, b.num_units, b.repeats):
        return replace(a, field=a.field.union(b.field, a.num_units))
    longer, shorter = (a, b) if a.num_units >= b.num_units else (b, a)
    if shorter.num_units > 1:
        # They lie in different dimensions: every unit of the first meets every unit of the second.
        longer, shorter = longer.reduced(), shorter.reduced()
    field = shorter.field.to_global(1).union(longer.field, longer.num_units)
    return replace(longer, field=field)
