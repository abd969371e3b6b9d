"""The running module, and the shapes of each module's inputs and outputs."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from convatlas.analysis.receptive_field.axes import ImageAxes
from convatlas.analysis.trace.main_output import main_output
from convatlas.analysis.trace.operations import Operation, Shape


@dataclass(slots=True)
class ModuleCall:
    """A module that was called once or more; shapes and axes are those of the last call."""

    path: str
    class_name: str
    params: int  # without those of its submodules, and without shared ones that an earlier module counts
    is_leaf: bool
    num_calls: int = 0
    operations: list[Operation] = field(default_factory=list)  # without those of its submodules
    input_shapes: list[Shape] = field(default_factory=list)  # only of a module that failed
    output_shapes: list[Shape] = field(default_factory=list)  # the main output's first
    output_place: str = ""  # of the main output among several, in words
    axes: ImageAxes | None = None  # of the main output


class ModuleTracker:
    """The stack of running modules, and a record of every module that ran."""

    def __init__(self, module: nn.Module):
        self.modules = dict(module.named_modules())
        parameters = [p for m in self.modules.values() for p in m._parameters.values() if p is not None]
        self.parameters = list({id(p): p for p in parameters}.values())
        self.buffers = [b for m in self.modules.values() for b in m._buffers.values() if b is not None]
        self.stack: list[ModuleCall] = []
        self.calls: list[ModuleCall] = []  # of the modules that ran, in the order of their first calls
        self.failed_call: ModuleCall | None = None  # the innermost that raised an error which nothing caught

    @contextmanager
    def tracking(self, axes_of: Callable[[Tensor], ImageAxes | None] = lambda _: None) -> Iterator[None]:
        """Record every call of a module inside the context.

        Each `forward` is wrapped, at half the cost of hooks.
        """
        counted: set[int] = set()
        # A few modules have a forward of their own beside that of their class.
        forwards = {path: module.__dict__.get("forward") for path, module in self.modules.items()}
        for path, module in self.modules.items():
            parameters = [p for p in module._parameters.values() if p is not None and id(p) not in counted]
            counted |= {id(p) for p in parameters}
            params = sum(p.numel() for p in parameters)
            call = ModuleCall(path, type(module).__name__, params, is_leaf=not module._modules)
            module.__dict__["forward"] = self._wrap_forward(module.forward, call, axes_of)
        try:
            yield
        finally:
            for path, module in self.modules.items():
                del module.__dict__["forward"]
                if forwards[path] is not None:
                    module.__dict__["forward"] = forwards[path]

    def _wrap_forward(
        self,
        forward: Callable[..., Any],
        call: ModuleCall,
        axes_of: Callable[[Tensor], ImageAxes | None],
    ) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            if not call.num_calls:
                self.calls.append(call)
            call.num_calls += 1
            self.stack.append(call)
            try:
                output = forward(*args, **kwargs)
            except Exception:
                if self.failed_call is None:
                    self.failed_call = call
                    call.input_shapes = shapes_in((args, kwargs))
                raise
            finally:
                self.stack.pop()
            self.failed_call = None
            tensors = tensors_in(output)
            if not isinstance(output, Tensor) and (main := main_output(output)) is not None:
                tensors = [main.tensor, *(tensor for tensor in tensors if tensor is not main.tensor)]
                call.output_place = main.place
            call.output_shapes = [tuple(tensor.shape) for tensor in tensors]
            call.axes = axes_of(tensors[0]) if tensors else None
            return output

        return wrapped

    @property
    def uncalled(self) -> list[tuple[str, int]]:
        """Path and number of parameters of each module with parameters that did not run."""
        called_paths = {call.path for call in self.calls}
        params = {
            path: sum(p.numel() for p in module._parameters.values() if p is not None)
            for path, module in self.modules.items()
            if path not in called_paths
        }
        return [(path, count) for path, count in params.items() if count]


def tensors_in(value: Any) -> list[Tensor]:
    """The tensors in any structure; the simple structures without torch's slower traversal."""
    if isinstance(value, Tensor):
        return [value]
    if type(value) is tuple and all(isinstance(item, Tensor) for item in value):
        return list(value)
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]


def shapes_in(value: Any) -> list[Shape]:
    """The shapes of the tensors in any structure."""
    return [tuple(tensor.shape) for tensor in tensors_in(value)]
