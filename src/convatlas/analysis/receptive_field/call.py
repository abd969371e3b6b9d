"""A call of an ATen operator: its arguments by name, and its output."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from convatlas.analysis.receptive_field.axes import ImageAxes

AxesLookup = Callable[[Any], ImageAxes | None]
"""The image axes of a tensor; None for a tensor that does not depend on the image."""


class OperatorCall:
    """An operator with its arguments by name, its output, and a lookup of its arguments' image axes."""

    def __init__(
        self,
        kind: "OperatorKind",
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        output: Any,
        axes_of: AxesLookup,
    ):
        self.kind = kind
        self.output = output
        self.axes_of = axes_of
        self.arguments = dict(zip(kind.argument_names, args, strict=False)) | dict(kwargs)

    def __getitem__(self, name: str) -> Any:
        return self.arguments[name]

    def get(self, name: str, default: Any) -> Any:
        """An argument; `default` where it is absent, None or an empty list."""
        value = self.arguments.get(name)
        return default if value is None or value == [] else value

    @property
    def source(self) -> Tensor:
        """The first tensor argument."""
        return next(value for value in self.arguments.values() if isinstance(value, Tensor))

    @property
    def source_axes(self) -> ImageAxes | None:
        return self.axes_of(self.source)

    @property
    def result(self) -> Tensor:
        """The first output tensor."""
        result: Tensor = self.output[0] if isinstance(self.output, tuple | list) else self.output
        return result

    def tensors(self) -> list[Tensor]:
        """All tensor arguments, those inside lists and tuples included."""
        tensors = []
        for value in self.arguments.values():
            if isinstance(value, Tensor):
                tensors.append(value)
            elif type(value) in (list, tuple):
                tensors += [element for element in value if isinstance(element, Tensor)]
        return tensors

    def dims(self, name: str = "dim") -> set[int]:
        """The dimensions in an argument: one number, several, or by default all dimensions of `source`."""
        num_dims = self.source.dim()
        dims = self.get(name, range(num_dims))
        return {d % num_dims for d in ([dims] if isinstance(dims, int) else dims)} if num_dims else set()


Rule = Callable[[OperatorCall], ImageAxes | list[ImageAxes] | None]
"""The image axes of an operator's outputs: the same for all of them, or a list with those of each."""


class OperatorKind(NamedTuple):
    """The properties of an operator that do not depend on its arguments."""

    name: str
    argument_names: tuple[str, ...]
    is_mutable: bool
    flop_formula: Callable[..., int] | None  # torch's; None for an operator that multiplies nothing
    rule: Rule | None
