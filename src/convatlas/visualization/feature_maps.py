"""The maps that a module gives on the way to the logits, within autograd's reach; and which module's are the last convolutional ones."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from torch import Tensor, nn

from convatlas.analysis import analyze
from convatlas.analysis.trace.modules import ModuleCall
from convatlas.analysis.trace.operations import CONVOLUTIONS
from convatlas.errors import UsageError, UserError, unknown_name


class FeatureMaps(NamedTuple):
    """One forward. The maps are as the module gave them, whatever is done to them in place later; the logits hang on them."""

    maps: Tensor  # (n, maps, h, w)
    logits: Tensor


def forward_with_maps(model: nn.Module, images: Tensor, path: str) -> FeatureMaps:
    """Run the network in evaluation mode on images (n, c, h, w), standardised, and keep what the module at `path` gives. Of a module that
    runs more than once, the last.

    Raises UsageError for a path that does not exist, naming the nearest, or does not give maps; UserError for one that did not run.
    """
    modules = dict(model.named_modules())
    if not path or path not in modules:
        raise unknown_name("module", path, filter(None, modules))
    kept: list[Tensor] = []

    def keep(module: nn.Module, inputs: object, output: object) -> Tensor:
        if not isinstance(output, Tensor) or output.dim() != 4:
            shape = f"a tensor of shape {tuple(output.shape)}" if isinstance(output, Tensor) else f"a {type(output).__name__}"
            raise UsageError(f"{path} gives {shape}, no maps: choose a layer whose output is (n, maps, height, width)")
        kept[:] = [output]
        return output.clone()

    handle = modules[path].register_forward_hook(keep)
    try:
        with _evaluating(model):
            logits = model(images)
    finally:
        handle.remove()
    if not kept:
        raise UserError(f"{path} does not run in evaluation: choose a layer on the way to the logits")
    return FeatureMaps(kept[0], logits)


def last_conv_layer(model: nn.Module, shape: tuple[int, int, int]) -> str:
    """The path of what gives the last convolutional features for images of this shape (channels, h, w): the last convolution that leaves
    a grid, with the normalisation, sum and activation that follow on that grid, the outermost module where several give the same.

    Raises UserError for a network without one.
    """
    calls = analyze(model, shape).trace.calls
    found = [(o.order, call) for call in calls for o in call.operations if o.grid and o.name in CONVOLUTIONS]
    if not found:
        raise UserError(f"{type(model).__name__} has no convolution that leaves a grid of {shape[1]}x{shape[2]} images: no maps to look at")
    grid = max(found, key=lambda pair: pair[0])[1].outputs[0][2:]
    ends = {call.path: _end(call, calls) for call in calls if call.path and call.outputs and call.outputs[0][2:] == grid}
    return max(ends, key=lambda path: (ends[path], -len(path)))


def _end(call: ModuleCall, calls: list[ModuleCall]) -> int:
    """When the last operator of a module ran, those of the modules in it included."""
    inside = (c for c in calls if c.path == call.path or c.path.startswith(f"{call.path}."))
    return max((o.order for c in inside for o in c.operations), default=-1)


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; every module's own mode after."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
