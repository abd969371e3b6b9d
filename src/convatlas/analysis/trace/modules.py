"""Which module runs, and the shapes of its inputs and outputs."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from convatlas.analysis.receptive_field.axes import ImageAxes
from convatlas.analysis.trace.operations import Operation, Shape


@dataclass(slots=True)
class ModuleCall:
    """A module, called once or more; of several calls the last one's shapes."""

    path: str
    kind: str  # the module's class
    params: int  # its own, those already counted elsewhere left out
    leaf: bool
    num_calls: int = 0
    operations: list[Operation] = field(default_factory=list)
    inputs: list[Shape] = field(default_factory=list)  # where it failed
    outputs: list[Shape] = field(default_factory=list)
    axes: ImageAxes | None = None


class ModuleTracker:
    """Which module is at work, and what went in and out of each."""

    def __init__(self, module: nn.Module):
        self.parts = dict(module.named_modules())
        self.parameters = list({id(p): p for part in self.parts.values() for p in part._parameters.values() if p is not None}.values())
        self.buffers = [b for part in self.parts.values() for b in part._buffers.values() if b is not None]
        self.open: list[ModuleCall] = []
        self.calls: list[ModuleCall] = []  # of the modules that ran
        self.failed: ModuleCall | None = None  # the innermost that raised an error which nothing has caught

    @contextmanager
    def tracking(self, sight: Callable[[Tensor], ImageAxes | None] = lambda _: None) -> Iterator[None]:
        """Notes every call of a module while open. Each forward is wrapped, which costs a call half of what hooks would."""
        counted: set[int] = set()
        before = {path: part.__dict__.get("forward") for path, part in self.parts.items()}  # a few modules have one of their own
        for path, part in self.parts.items():
            own = [p for p in part._parameters.values() if p is not None and id(p) not in counted]
            counted |= {id(p) for p in own}
            call = ModuleCall(path, type(part).__name__, sum(p.numel() for p in own), not part._modules)
            part.__dict__["forward"] = self._tracked(part.forward, call, sight)
        try:
            yield
        finally:
            for path, part in self.parts.items():
                del part.__dict__["forward"]
                if before[path] is not None:
                    part.__dict__["forward"] = before[path]

    def _tracked(self, forward: Callable[..., Any], call: ModuleCall, sight: Callable[[Tensor], ImageAxes | None]) -> Callable[..., Any]:
        def followed(*args: Any, **kwargs: Any) -> Any:
            if not call.num_calls:
                self.calls.append(call)
            call.num_calls += 1
            self.open.append(call)
            try:
                out = forward(*args, **kwargs)
            except Exception:
                if self.failed is None:
                    self.failed, call.inputs = call, shapes_in((args, kwargs))
                raise
            finally:
                self.open.pop()
            self.failed = None
            found = tensors_in(out)
            call.outputs = [tuple(tensor.shape) for tensor in found]
            call.axes = sight(found[0]) if found else None
            return out

        return followed

    @property
    def uncalled(self) -> list[tuple[str, int]]:
        """Modules with parameters that did not run, with those."""
        ran = {call.path for call in self.calls}
        counts = {
            path: sum(p.numel() for p in m._parameters.values() if p is not None) for path, m in self.parts.items() if path not in ran
        }
        return [(path, count) for path, count in counts.items() if count]


def tensors_in(value: Any) -> list[Tensor]:
    """Those in any structure, the plain ones without torch's slower walk."""
    if isinstance(value, Tensor):
        return [value]
    if type(value) is tuple and all(isinstance(inner, Tensor) for inner in value):
        return list(value)
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]


def shapes_in(value: Any) -> list[Shape]:
    return [tuple(tensor.shape) for tensor in tensors_in(value)]
