"""A trace: one forward pass on meta tensors, recorded operator by operator.

It holds the operators that each module ran, the cost of each, and the receptive field of every module's
output. Nothing is computed and no weight is allocated: the module is copied with its tensors on the meta
device and run once. So whatever a module does in its forward is recorded, and the caller's module stays as it
was.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from convatlas.analysis.receptive_field.axes import (
    Axis,
    ImageAxes,
    axes_of_input,
    broadcast_axes,
    reduce_axes,
)
from convatlas.analysis.receptive_field.call import OperatorCall
from convatlas.analysis.receptive_field.operators import apply_rule, operator_kind
from convatlas.analysis.trace.activations import ActivationTracker
from convatlas.analysis.trace.backward import saved_for_backward
from convatlas.analysis.trace.inputs import forward_arguments
from convatlas.analysis.trace.meta_copy import copy_to_device, gc_paused
from convatlas.analysis.trace.modules import ModuleCall, ModuleTracker, shapes_in, tensors_in
from convatlas.analysis.trace.operations import CONVOLUTIONS, ConvSpec, Operation, Shape, pool_window
from convatlas.analysis.trace.shape_cache import cached_op
from convatlas.errors import UsageError, UserError, printable


@dataclass(slots=True)
class Trace:
    model_name: str  # the module's class
    input_shapes: tuple[Shape, ...]  # of each input tensor
    input_bytes: int
    calls: list[ModuleCall]  # in the order in which they began
    params: int
    trainable_params: int
    buffer_elements: int
    uncalled: list[tuple[str, int]]  # path and number of parameters of each module that did not run
    outputs: tuple[int, ...]  # the operations that made the output's tensors, as in `Operation.sources`
    peak_bytes: int  # of activations that are live at the same time
    peak_module: str  # the path of the module that ran at the peak
    saved_bytes: Callable[[], dict[str, int] | None]  # runs a forward in training mode: `saved_for_backward`


@gc_paused()
def trace(module: nn.Module, example: Any, num_axes: int | None = None, device: str = "meta") -> Trace:
    """Run a copy of `module` once, in evaluation mode, and record every operator.

    `example`: the shape of one image (channels, height, width), or the forward's inputs: a tensor, a tuple of
    them in order, or a dictionary by name. `num_axes`: how many of the last dimensions of the first tensor
    are axes of the image; by default all except batch and channels.

    Raises UsageError for an input that the module cannot take, naming the layer and the shape there;
    UserError for a module whose control flow depends on values, which meta tensors do not have.
    """
    module_copy = copy_to_device(module, device).eval()
    args, kwargs = forward_arguments(module_copy, example, device)
    inputs = tensors_in((args, kwargs))
    modules = ModuleTracker(module_copy)
    mode = TraceMode(modules)
    for index, tensor in enumerate(inputs):
        if index > 0:
            mode.track_input(tensor, None, index)
            continue
        default_axes = max(tensor.dim() - 2, 0)
        mode.track_input(
            tensor, axes_of_input(tensor.shape, default_axes if num_axes is None else num_axes), 0
        )
    with modules.tracking(mode.tensors.axes_of), torch.no_grad(), torch.device(device), mode:
        output = _run_forward(module_copy, args, kwargs, modules, device)
    mode.count_live_elements()
    return Trace(
        model_name=type(module).__name__,
        input_shapes=tuple(tuple(t.shape) for t in inputs),
        input_bytes=sum(map(_num_bytes, inputs)),
        calls=modules.calls,
        params=sum(p.numel() for p in modules.parameters),
        trainable_params=sum(p.numel() for p in modules.parameters if p.requires_grad),
        buffer_elements=sum(b.numel() for b in modules.buffers),
        uncalled=modules.uncalled,
        outputs=mode.tensors.sources(tensors_in(output)),
        peak_bytes=mode.peak_bytes,
        peak_module=mode.peak_module,
        saved_bytes=partial(saved_for_backward, module_copy, args, kwargs, device),
    )


def _run_forward(
    module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any], modules: ModuleTracker, device: str
) -> Any:
    """Call the module; turn its error into one sentence that names the layer."""
    try:
        return module(*args, **kwargs)
    except UserError:
        raise
    except Exception as error:
        raise _forward_error(module, shapes_in((args, kwargs)), modules.failed_call, device, error) from None


def _forward_error(
    module: nn.Module, shapes: Sequence[Shape], failed_call: ModuleCall | None, device: str, error: Exception
) -> UserError:
    name = type(module).__name__
    inputs = " and ".join(f"a tensor of {'x'.join(map(str, shape)) or 'one number'}" for shape in shapes)
    inputs = inputs or "no tensors"
    message = str(error).strip()
    reason = printable(message.splitlines()[0] if message else type(error).__name__)[:200]
    layer = f"{name} itself"
    layer_inputs = inputs
    if failed_call is not None:
        layer_inputs = ", ".join(map(str, failed_call.input_shapes))
        if failed_call.path:
            layer = f"{failed_call.path} ({failed_call.class_name})"
    is_outermost = failed_call is None or not failed_call.path
    if is_outermost and isinstance(error, TypeError) and "forward()" in message:
        return UsageError(
            f"{name} cannot be called with {inputs} alone ({reason}): give example inputs, "
            "a tuple of the forward's arguments or a dictionary of them by name"
        )
    text = message.lower()
    needs_values = "meta" in text or "data-dependent" in text or isinstance(error, NotImplementedError)
    if device == "meta" and needs_values:
        return UserError(
            f"{layer} needs the values of its tensors, which an analysis of shapes does not have ({reason}): "
            "give real tensors and device='cpu'"
        )
    return UsageError(
        f"{name} fails on {inputs}: {layer} got {layer_inputs} ({reason}); give it an input of another size"
    )


class TraceMode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Record every ATen operator with the module that called it, and follow each tensor's image axes."""

    def __init__(self, modules: ModuleTracker):
        super().__init__()  # type: ignore[no-untyped-call]
        self.modules = modules
        self.tensors = ActivationTracker((*modules.parameters, *modules.buffers))
        self.operations: list[Operation] = []
        self.num_input_storages = 0
        self.peak_bytes = 0
        self.peak_module = ""

    def track_input(self, tensor: Tensor, axes: ImageAxes | None, number: int) -> None:
        info, _ = self.tensors.track(tensor, -1)
        info.axes = axes
        info.source = -1 - number
        self.num_input_storages = len(self.tensors.elements)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        output = cached_op(func, args, kwargs)
        if not self.modules.stack:
            return output
        tensors = self.tensors
        step = len(self.operations)
        call = OperatorCall(operator_kind(func), args, kwargs, output, tensors.axes_of)
        kind = call.kind
        inputs = call.tensors()
        results = tensors_in(output)
        axes, is_supported = apply_rule(call)
        axes_by_result = axes if isinstance(axes, list) else [axes] * len(results)

        input_depths = [info.depth for tensor in inputs if (info := tensors[tensor])]
        depth = max(input_depths, default=0) + (kind.flop_formula is not None)
        sources = tensors.sources(inputs)
        new_tensors = []
        for tensor, result_axes in zip(results, axes_by_result, strict=False):
            info, is_new = tensors.track(tensor, step)
            info.depth = max(depth, info.depth)
            info.source = step
            if result_axes is not None:
                info.axes = result_axes
                if kind.is_mutable:
                    self._spread_to_base(tensor, result_axes)
            if kind.is_mutable and tensor._base is not None:
                tensors.track(tensor._base, step)[0].source = step
            if is_new:
                new_tensors.append(tensor)
        for tensor in inputs:
            tensors.mark_read(tensor, step)
        if tensors.live_bytes > self.peak_bytes:
            self.peak_bytes = tensors.live_bytes
            self.peak_module = self.modules.stack[-1].path

        moves_data = bool(new_tensors) or kind.is_mutable
        has_new_result = bool(new_tensors) and new_tensors[0] is results[0]
        operation = Operation(
            index=step,
            name=kind.name,
            macs=kind.flop_formula(*args, **kwargs, out_val=output) // 2 if kind.flop_formula else 0,
            read_bytes=sum(map(_num_bytes, inputs)) if moves_data else 0,
            written_bytes=sum(map(_num_bytes, results)) if moves_data else 0,
            activation_bytes=_num_bytes(results[0]) if has_new_result else 0,
            depth=depth,
            is_feature_map=bool(axes_by_result) and _is_feature_map(axes_by_result[0]),
            is_supported=is_supported,
            module_call=self.modules.stack[-1].num_calls,
            sources=sources,
            output_shape=tuple(results[0].shape) if results else (),
            conv=self._conv_spec(call, inputs, results) if results else None,
            pool_window=pool_window(call) if "pool" in kind.name else None,
        )
        self.operations.append(operation)
        self.modules.stack[-1].operations.append(operation)
        return output

    def count_live_elements(self) -> None:
        """For each operation, count the elements that a later operation reads.

        They bound the information that can pass there.
        """
        changes = [0] * (len(self.operations) + 1)
        tensors = self.tensors
        for storage in range(self.num_input_storages, len(tensors.elements)):
            changes[tensors.created_at[storage]] += tensors.elements[storage]
            changes[tensors.last_read_at[storage]] -= tensors.elements[storage]
        live_elements = 0
        for operation, change in zip(self.operations, changes, strict=False):
            live_elements += change
            operation.live_elements = live_elements

    def _conv_spec(self, call: OperatorCall, inputs: list[Tensor], results: list[Tensor]) -> ConvSpec | None:
        """The sizes of a convolution, or None for another operator.

        Also marks the results of 1x1 convolutions that reduce the channels, up to the next convolution.
        """
        result_info = self.tensors[results[0]]
        if not inputs or result_info is None:
            return None
        source = inputs[0]
        source_info = self.tensors[source]
        unreduced_channels = None if source_info is None else source_info.unreduced_channels
        if call.kind.name not in CONVOLUTIONS:
            if unreduced_channels is not None and _has_same_channels(results[0], source):
                result_info.unreduced_channels = unreduced_channels
            return None
        kernel_size = tuple(call["weight"].shape[2:])
        conv = ConvSpec(
            kernel_size,
            tuple(call["stride"]),
            tuple(call["dilation"]),
            bool(call.get("transposed", False)),
            source.shape[1],
            results[0].shape[1],
            call["groups"],
            unreduced_channels,
        )
        is_pointwise = max(kernel_size) == 1
        if is_pointwise and conv.in_channels > conv.out_channels:
            result_info.unreduced_channels = conv.in_channels
        elif unreduced_channels is not None and (not is_pointwise or conv.in_channels == conv.out_channels):
            result_info.unreduced_channels = unreduced_channels  # a second convolution on the same embedding
        return conv

    def _spread_to_base(self, view: Tensor, axes: ImageAxes) -> None:
        """After a write into a view, give the axes of the written values to the whole base tensor."""
        base = view._base
        if base is None or base is view:
            return
        if base.dim() == view.dim():
            base_axes = tuple(_grow_axis(axis, view.shape, base.shape) for axis in axes)
        else:
            base_axes = reduce_axes(axes, range(view.dim()))
        info, _ = self.tensors.track(base, len(self.operations))
        if info.axes is not None:
            base_axes = broadcast_axes([(info.axes, base.shape), (base_axes, base.shape)], base.shape)
        info.axes = base_axes


def _grow_axis(axis: Axis, shape: Sequence[int], base_shape: Sequence[int]) -> Axis:
    """An axis of a view as an axis of its base.

    Where the base is longer, every unit is treated as depending on all units of the view.
    """
    if axis.dim is None or base_shape[axis.dim] == shape[axis.dim]:
        return axis
    return Axis(axis.to_global().field, axis.dim, base_shape[axis.dim])


def _is_feature_map(axes: ImageAxes | None) -> bool:
    return bool(axes) and all(axis.dim is not None and axis.num_units > 1 for axis in axes or ())


def _has_same_channels(a: Tensor, b: Tensor) -> bool:
    return a.dim() == b.dim() and a.shape[1:2] == b.shape[1:2]


def _num_bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
