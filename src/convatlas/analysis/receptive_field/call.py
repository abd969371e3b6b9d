"""A call of an ATen operator, with its arguments by name and its result."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from convatlas.analysis.receptive_field.axes import ImageAxes

AxesLookup = Callable[[Any], ImageAxes | None]
"""What the units of a tensor see; None for what does not come from the image."""


class OperatorCall:
    """An operator with its arguments by name, and what it gave."""

    def __init__(self, kind: "OperatorKind", args: Sequence[Any], kwargs: Mapping[str, Any], out: Any, see: AxesLookup):
        self.kind, self.out, self.axes_of = kind, out, see
        self.arguments = dict(zip(self.kind.arguments, args, strict=False)) | dict(kwargs)

    def __getitem__(self, name: str) -> Any:
        return self.arguments[name]

    def get(self, name: str, default: Any) -> Any:
        found = self.arguments.get(name)
        return default if found is None or found == [] else found

    @property
    def source(self) -> Tensor:
        """The tensor that is worked on: the first."""
        return next(value for value in self.arguments.values() if isinstance(value, Tensor))

    @property
    def source_axes(self) -> ImageAxes | None:
        return self.axes_of(self.source)

    @property
    def result(self) -> Tensor:
        found: Tensor = self.out[0] if isinstance(self.out, tuple | list) else self.out
        return found

    def tensors(self) -> list[Tensor]:
        found = []
        for value in self.arguments.values():
            if isinstance(value, Tensor):
                found.append(value)
            elif type(value) in (list, tuple):
                found += [inner for inner in value if isinstance(inner, Tensor)]
        return found

    def dims(self, name: str = "dim") -> set[int]:
        """Dimensions given by a number, several, or none for all."""
        n = self.source.dim()
        given = self.get(name, range(n))
        return {d % n for d in ([given] if isinstance(given, int) else given)} if n else set()


Rule = Callable[[OperatorCall], ImageAxes | list[ImageAxes] | None]


class OperatorKind(NamedTuple):
    """What is known of an operator before it is called."""

    name: str
    arguments: tuple[str, ...]
    mutable: bool
    flops: Callable[..., int] | None  # torch's formula; of one that multiplies nothing there is none
    rule: Rule | None
