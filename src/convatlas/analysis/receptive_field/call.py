"""A call of an ATen operator, with its arguments by name and its result."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from convatlas.analysis.receptive_field.axes import Sight

See = Callable[[Any], Sight | None]
"""What the units of a tensor see; None for what does not come from the image."""


class Call:
    """An operator with its arguments by name, and what it gave."""

    def __init__(self, kind: "Kind", args: Sequence[Any], kwargs: Mapping[str, Any], out: Any, see: See):
        self.kind, self.out, self.see = kind, out, see
        self.given = dict(zip(self.kind.arguments, args, strict=False)) | dict(kwargs)

    def __getitem__(self, name: str) -> Any:
        return self.given[name]

    def get(self, name: str, default: Any) -> Any:
        found = self.given.get(name)
        return default if found is None or found == [] else found

    @property
    def source(self) -> Tensor:
        """The tensor that is worked on: the first."""
        return next(value for value in self.given.values() if isinstance(value, Tensor))

    @property
    def seen(self) -> Sight | None:
        return self.see(self.source)

    @property
    def result(self) -> Tensor:
        found: Tensor = self.out[0] if isinstance(self.out, tuple | list) else self.out
        return found

    def tensors(self) -> list[Tensor]:
        found = []
        for value in self.given.values():
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


Rule = Callable[[Call], Sight | list[Sight] | None]


class Kind(NamedTuple):
    """What is known of an operator before it is called."""

    name: str
    arguments: tuple[str, ...]
    mutable: bool
    flops: Callable[..., int] | None  # torch's formula; of one that multiplies nothing there is none
    rule: Rule | None
