"""A module that edits change, and one forward of it."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from convatlas.analysis.trace.modules import ModuleCall
from convatlas.analysis.trace.operations import Operation
from convatlas.analysis.trace.trace import Trace, trace
from convatlas.errors import UsageError


class Target:
    """`module`, and its forward on `example`, as in `trace`; None where no forward can be run.

    `init_layer` initialises the layers that an edit adds, as the network initialises its own; without it they
    have torch's initialisation.
    """

    def __init__(
        self, module: nn.Module, example: Any = None, init_layer: Callable[[nn.Module], None] | None = None
    ):
        self.module = module
        self.example = example
        self.init_layer = init_layer
        self._trace: Trace | None = None

    @property
    def name(self) -> str:
        """The network's name, or the module's class."""
        return str(getattr(self.module, "name", None) or type(self.module).__name__)

    def layers(self, *kinds: type[nn.Module]) -> list[tuple[str, nn.Module]]:
        """The modules inside, with their paths; with `kinds` those of exactly these classes."""
        inside = [(path, module) for path, module in self.module.named_modules() if path]
        return [(path, module) for path, module in inside if not kinds or type(module) in kinds]

    def replace(self, replacements: Mapping[nn.Module, nn.Module]) -> None:
        """Put other modules in the places of these, wherever they are, all at once."""
        for old, new in replacements.items():
            new.train(old.training)
        for parent in list(self.module.modules()):
            for name, child in list(parent._modules.items()):
                if child is not None and child in replacements:
                    setattr(parent, name, replacements[child])
        self._trace = None

    def build(self, make: Callable[[], nn.Module]) -> nn.Module:
        """A new layer with the device and the type of the module's own, initialised as they are."""
        parameter = next((p for p in self.module.parameters() if p.is_floating_point()), torch.empty(0))
        with torch.device(parameter.device):
            layer = make().to(parameter.dtype)
        if self.init_layer is not None:
            layer.apply(self.init_layer)
        return layer

    @property
    def calls(self) -> list[ModuleCall]:
        """The modules that a forward runs, auxiliary heads included, in order; the paths are the module's.

        Raises UsageError where no forward can be run.
        """
        if self.example is None:
            raise UsageError(
                f"the edit needs the shapes of a forward of {self.name}: give input=(channels, height, "
                "width) of one image, or example inputs"
            )
        if self._trace is None:
            has_heads = bool(getattr(self.module, "heads", None))
            with torch.inference_mode(False):
                self._trace = trace(_TrainingForward(self.module) if has_heads else self.module, self.example)
            if has_heads:
                for call in self._trace.calls:
                    call.path = call.path.removeprefix("network").removeprefix(".")
        return self._trace.calls

    def operations(self) -> Iterator[tuple[ModuleCall, Operation]]:
        """Every operator of a forward, with the module that runs it."""
        return ((call, operation) for call in self.calls for operation in call.operations)


class _TrainingForward(nn.Module):
    """images -> `network.training_outputs(images)`, so that auxiliary heads run too."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Any:
        return self.network.training_outputs(images)  # type: ignore[operator]
