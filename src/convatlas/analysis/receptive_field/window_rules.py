"""Receptive fields through windows: convolution, pooling, padding, upsampling."""

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from convatlas.analysis.receptive_field.axes import ImageAxes, reshape_axes, window_axes
from convatlas.analysis.receptive_field.call import OperatorCall
from convatlas.analysis.receptive_field.intervals import (
    Window,
    adaptive_window,
    fractional_window,
    interpolation_window,
    nearest_window,
    repeat_window,
    sliding_window,
    transposed_window,
)


def _to_list(value: Any, length: int) -> list[int]:
    """One number for all axes, or a number for each, as a list with a number for each."""
    values = [value] if isinstance(value, int) else list(value)
    return values * length if len(values) == 1 else values


def _apply_windows(call: OperatorCall, windows: Sequence[Window]) -> ImageAxes | None:
    """`windows` along the last dimensions of the source."""
    shape, out_shape = call.source.shape, call.result.shape
    first = len(shape) - len(windows)
    by_dim = {first + i: window for i, window in enumerate(windows)}
    return call.source_axes and window_axes(call.source_axes, shape, out_shape, by_dim)


def convolution(call: OperatorCall) -> ImageAxes | None:
    kernel = call["weight"].shape[2:]
    names = ("stride", "padding", "dilation")
    stride, padding, dilation = (_to_list(call[name], len(kernel)) for name in names)
    make_window = transposed_window if call["transposed"] else sliding_window
    sizes = zip(kernel, stride, padding, dilation, strict=True)
    return _apply_windows(call, [make_window(k, s, p, d) for k, s, p, d in sizes])


def pooling(call: OperatorCall) -> ImageAxes | None:
    num_axes = int(call.kind.name.split("pool")[1][0])  # max_pool2d_with_indices
    kernel = _to_list(call["kernel_size"], num_axes)
    stride = _to_list(call.get("stride", kernel), num_axes)
    padding = _to_list(call.get("padding", 0), num_axes)
    dilation = _to_list(call.get("dilation", 1), num_axes)
    sizes = zip(kernel, stride, padding, dilation, strict=True)
    return _apply_windows(call, [sliding_window(k, s, p, d) for k, s, p, d in sizes])


def adaptive_pooling(call: OperatorCall) -> ImageAxes | None:
    num_axes = len(call["output_size"])
    sizes = zip(call.source.shape[-num_axes:], call.result.shape[-num_axes:], strict=True)
    return _apply_windows(call, [adaptive_window(*pair) for pair in sizes])


def fractional_pooling(call: OperatorCall) -> ImageAxes | None:
    num_axes = len(call["kernel_size"])
    sizes = zip(
        call.source.shape[-num_axes:], call.result.shape[-num_axes:], call["kernel_size"], strict=True
    )
    return _apply_windows(call, [fractional_window(*triple) for triple in sizes])


def upsampling(call: OperatorCall) -> ImageAxes | None:
    name = call.kind.name
    num_axes = call.source.dim() - 2
    scale_names = ("scales_d", "scales_h", "scales_w")[-num_axes:] if num_axes > 1 else ("scales",)
    scales = [call.get(scale_name, None) for scale_name in scale_names]
    align_corners = bool(call.get("align_corners", False))
    windows = []
    sizes = zip(call.source.shape[2:], call.result.shape[2:], scales, strict=True)
    for input_size, output_size, scale in sizes:
        step = Fraction(1 / scale).limit_denominator(4096) if scale else Fraction(input_size, output_size)
        if "nearest" in name:
            windows.append(nearest_window(step, centred="exact" in name))
            continue
        if align_corners:
            step = Fraction(input_size - 1, output_size - 1) if output_size > 1 else Fraction(0)
        before, after = (1, 2) if "cubic" in name else (0, 1)
        windows.append(interpolation_window(step, before, after, align_corners, name.endswith("_aa")))
    return _apply_windows(call, windows)


def padding(call: OperatorCall) -> ImageAxes | None:
    argument = "pad" if "pad" in call.arguments else "padding"
    pads_before = call[argument][::2]  # of the last dimension, of the one before it, ...
    return _apply_windows(call, [sliding_window(1, 1, pad) for pad in reversed(pads_before)])


def unfolding(call: OperatorCall) -> ImageAxes | None:
    """im2col: (n, c, h, w) -> (n, c * kernel, positions)."""
    if call.source_axes is None:
        return None
    shape = call.source.shape
    windows = {}
    out_sizes = []
    arguments = (call[name] for name in ("kernel_size", "stride", "padding", "dilation"))
    for dim, k, s, p, d in zip((len(shape) - 2, len(shape) - 1), *arguments, strict=True):
        windows[dim] = sliding_window(k, s, p, d)
        out_sizes.append((shape[dim] + 2 * p - d * (k - 1) - 1) // s + 1)
    out_shape = [*shape[:-2], *out_sizes]
    axes = window_axes(call.source_axes, shape, out_shape, windows)
    return reshape_axes(axes, out_shape, [*shape[:-2], math.prod(out_sizes)])


def folding(call: OperatorCall) -> ImageAxes | None:
    """col2im, the inverse: (n, c * kernel, positions) -> (n, c, h, w)."""
    if call.source_axes is None:
        return None
    names = ("kernel_size", "stride", "padding", "dilation")
    sizes = list(zip(call["output_size"], *(call[name] for name in names), strict=True))
    grid = [(size + 2 * p - d * (k - 1) - 1) // s + 1 for size, k, s, p, d in sizes]
    shape = call.source.shape
    first = len(shape) - 1
    grid_shape = [*shape[:-1], *grid]
    axes = reshape_axes(call.source_axes, shape, grid_shape)
    windows = {first + i: transposed_window(k, s, p, d) for i, (_, k, s, p, d) in enumerate(sizes)}
    return window_axes(axes, grid_shape, call.result.shape, windows)


def pixel_shuffle(call: OperatorCall) -> ImageAxes | None:
    return _apply_windows(call, [repeat_window(call["upscale_factor"])] * 2)


def pixel_unshuffle(call: OperatorCall) -> ImageAxes | None:
    factor = call["downscale_factor"]
    return _apply_windows(call, [sliding_window(factor, factor)] * 2)
