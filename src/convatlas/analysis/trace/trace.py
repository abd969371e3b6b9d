"""One forward on meta tensors, watched: which operators ran where, what each cost, and what every module's output sees.

Nothing is computed and no weight is allocated: the module is copied with its tensors on the meta device, run once, and each ATen
operator noted on its way. So whatever a module does in its forward is seen, and the caller's module is left as it was.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from convatlas.analysis.receptive_field import axes as sights
from convatlas.analysis.receptive_field.axes import ImageAxes
from convatlas.analysis.receptive_field.call import OperatorCall as OperatorCall
from convatlas.analysis.receptive_field.operators import axes_of, operator_kind
from convatlas.analysis.trace.activations import ActivationTracker
from convatlas.analysis.trace.backward import saved_for_backward
from convatlas.analysis.trace.inputs import forward_arguments
from convatlas.analysis.trace.meta_copy import copy_to_device, gc_paused
from convatlas.analysis.trace.modules import ModuleCall, ModuleTracker, shapes_in, tensors_in
from convatlas.analysis.trace.operations import CONVOLUTIONS, Kernel, Operation, Shape
from convatlas.analysis.trace.shape_cache import cached_op
from convatlas.errors import UsageError, UserError, printable


@dataclass(slots=True)
class Trace:
    name: str
    inputs: tuple[Shape, ...]  # of each tensor given
    input_bytes: int
    calls: list[ModuleCall]  # in the order in which they began
    params: int
    trainable: int
    buffers: int
    uncalled: list[tuple[str, int]]  # modules with parameters that did not run, with those
    peak: int  # most bytes of activations alive at one time
    peak_at: str  # the module in which
    saved_for_backward: Callable[[], dict[str, int] | None]  # a forward in training mode: what `kept_for_backward` finds


@gc_paused()
def trace(module: nn.Module, example: Any, axes: int | None = None, device: str = "meta") -> Trace:
    """Run `module` once, in evaluation mode, on the meta device, and note what happens.

    `example`: the shape of one image (channels, height, width), or the forward's inputs: a tensor, a tuple of them in order, a
    dictionary by name. `axes`: how many last dimensions of the first tensor are its image's; by default all but batch and channels.
    Raises UsageError for an input that the module cannot take, naming the layer and the shape there; UserError for a module whose
    course depends on values, which meta tensors have not.
    """
    name = type(module).__name__
    twin = copy_to_device(module, device).eval()
    args, kwargs = forward_arguments(twin, example, device)
    tensors = tensors_in((args, kwargs))
    modules = ModuleTracker(twin)
    watch = TraceMode(modules)
    for number, tensor in enumerate(tensors):
        n = max(tensor.dim() - 2, 0) if axes is None else axes
        watch.begin(tensor, sights.image_axes(tensor.shape, n) if number == 0 else None)
    with modules.tracking(watch.tensors.axes), torch.no_grad(), torch.device(device), watch:
        run(twin, args, kwargs, modules, device)
    watch.note_cuts()
    return Trace(
        name,
        tuple(tuple(t.shape) for t in tensors),
        sum(t.numel() * t.element_size() for t in tensors),
        modules.calls,
        sum(p.numel() for p in modules.parameters),
        sum(p.numel() for p in modules.parameters if p.requires_grad),
        sum(b.numel() for b in modules.buffers),
        modules.uncalled,
        watch.peak,
        watch.peak_at,
        partial(saved_for_backward, twin, args, kwargs, device),
    )


def run(module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any], modules: "ModuleTracker", device: str) -> None:
    """Call the module; what it raises becomes one sentence that names the layer."""
    try:
        module(*args, **kwargs)
    except UserError:
        raise
    except Exception as error:
        name, place = type(module).__name__, modules.failed
        shapes = shapes_in((args, kwargs))
        given = " and ".join(f"a tensor of {'x'.join(map(str, shape)) or 'one number'}" for shape in shapes) or "no tensors"
        at = f"{place.path} ({place.kind})" if place is not None and place.path else f"{name} itself"
        got = ", ".join(map(str, place.inputs)) if place is not None else given
        reason = printable(str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__)[:200]
        if (place is None or not place.path) and isinstance(error, TypeError) and "forward()" in str(error):
            raise UsageError(
                f"{name} cannot be called with {given} alone ({reason}): give example inputs, a tuple of the forward's arguments or a "
                "dictionary of them by name"
            ) from None
        words = str(error).lower()
        if device == "meta" and ("meta" in words or "data-dependent" in words or isinstance(error, NotImplementedError)):
            raise UserError(
                f"{at} needs the values of its tensors, which an analysis of shapes has not ({reason}): give real tensors and device='cpu'"
            ) from None
        raise UsageError(f"{name} fails on {given}: {at} got {got} ({reason}); give it an input of another size") from None


class TraceMode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes every ATen operator with the module that called it, and follows what each tensor's units see."""

    def __init__(self, modules: ModuleTracker):
        super().__init__()  # type: ignore[no-untyped-call]
        self.modules = modules
        self.tensors = ActivationTracker((*modules.parameters, *modules.buffers))
        self.operations: list[Operation] = []
        self.inputs = 0
        self.peak = 0
        self.peak_at = ""

    def begin(self, tensor: Tensor, sight: ImageAxes | None) -> None:
        noted, _ = self.tensors.track(tensor, -1)
        noted.axes = sight
        self.inputs = len(self.tensors.elements)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = cached_op(func, args, kwargs)
        if not self.modules.open:
            return out
        now, tensors = len(self.operations), self.tensors
        call = OperatorCall(operator_kind(func), args, kwargs, out, tensors.axes)
        kind, given, results = call.kind, call.tensors(), tensors_in(out)
        sight, understood = axes_of(call)
        each = sight if isinstance(sight, list) else [sight] * len(results)

        depth = max([noted.depth for t in given if (noted := tensors[t])], default=0) + (kind.flops is not None)
        fresh = []
        for tensor, what in zip(results, each, strict=False):
            noted, new = tensors.track(tensor, now)
            noted.depth = max(depth, noted.depth)
            if what is not None:
                noted.axes = what
                if kind.mutable:
                    self._also_the_whole(tensor, what)
            if new:
                fresh.append(tensor)
        for tensor in given:
            tensors.read(tensor, now)
        if tensors.live > self.peak:
            self.peak, self.peak_at = tensors.live, self.modules.open[-1].path

        moves = bool(fresh) or kind.mutable
        operation = Operation(
            order=now,
            name=kind.name,
            macs=kind.flops(*args, **kwargs, out_val=out) // 2 if kind.flops else 0,
            read=sum(map(_bytes, given)) if moves else 0,
            written=sum(map(_bytes, results)) if moves else 0,
            activation=_bytes(results[0]) if fresh and fresh[0] is results[0] else 0,
            depth=depth,
            grid=bool(each and each[0]) and all(axis.dim is not None and axis.units > 1 for axis in each[0] or ()),
            understood=understood,
            kernel=self._kernel(call, given, results) if results else None,
        )
        self.operations.append(operation)
        self.modules.open[-1].operations.append(operation)
        return out

    def note_cuts(self) -> None:
        """After each operation, the elements that some later one reads: what information can pass through there."""
        change = [0] * (len(self.operations) + 1)
        tensors = self.tensors
        for number in range(self.inputs, len(tensors.elements)):
            change[tensors.born[number]] += tensors.elements[number]
            change[tensors.last_read[number]] -= tensors.elements[number]
        total = 0
        for operation, by in zip(self.operations, change, strict=False):
            total += by
            operation.cut = total

    def _kernel(self, call: OperatorCall, given: list[Tensor], results: list[Tensor]) -> Kernel | None:
        """A convolution's kernel; and remember 1x1 convolutions that reduce, up to the next one."""
        result = self.tensors[results[0]]
        if not given or result is None:
            return None
        source = given[0]
        noted = self.tensors[source]
        before = None if noted is None else noted.reduced
        if call.kind.name not in CONVOLUTIONS:
            if before is not None and results[0].dim() == source.dim() and results[0].shape[1:2] == source.shape[1:2]:
                result.reduced = before
            return None
        sides = tuple(call["weight"].shape[2:])
        kernel = Kernel(sides, source.shape[1], results[0].shape[1], call["groups"], before)
        if max(sides) == 1 and kernel.channels_in > kernel.channels_out:
            result.reduced = kernel.channels_in
        elif before is not None and (max(sides) > 1 or kernel.channels_in == kernel.channels_out):
            result.reduced = before  # a second convolution on the same embedding
        return kernel

    def _also_the_whole(self, part: Tensor, sight: ImageAxes) -> None:
        """What is written into a part of a tensor is seen through the whole of it."""
        whole = part._base
        if whole is None or whole is part:
            return
        if whole.dim() == part.dim():
            spread = tuple(
                sights.Axis(axis.to_global().field, axis.dim, whole.shape[axis.dim])
                if axis.dim is not None and whole.shape[axis.dim] != part.shape[axis.dim]
                else axis
                for axis in sight
            )
        else:
            spread = sights.reduced(sight, range(part.dim()))
        noted, _ = self.tensors.track(whole, len(self.operations))
        before = noted.axes
        noted.axes = spread if before is None else sights.broadcast([(before, whole.shape), (spread, whole.shape)], whole.shape)


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
