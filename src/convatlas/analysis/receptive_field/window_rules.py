"""Receptive fields through windows: convolution, pooling, padding, upsampling."""

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from convatlas.analysis.receptive_field import axes as sights
from convatlas.analysis.receptive_field.axes import ImageAxes
from convatlas.analysis.receptive_field.call import OperatorCall
from convatlas.analysis.receptive_field.intervals import (
    Window,
    adaptive,
    interpolated,
    nearest,
    repeated,
    transposed,
    window,
)

# Windows


def _sides(value: Any, n: int) -> list[int]:
    """One number for every axis, or one for each."""
    values = [value] if isinstance(value, int) else list(value)
    return values * n if len(values) == 1 else values


def _windowed(call: OperatorCall, taps: Sequence[Window]) -> ImageAxes | None:
    """`taps` for the last dimensions."""
    shape, out = call.source.shape, call.result.shape
    first = len(shape) - len(taps)
    return call.source_axes and sights.windowed(call.source_axes, shape, out, {first + i: t for i, t in enumerate(taps)})


def convolution(call: OperatorCall) -> ImageAxes | None:
    kernel = call["weight"].shape[2:]
    n = len(kernel)
    sides = (_sides(call[name], n) for name in ("stride", "padding", "dilation"))
    kind = transposed if call["transposed"] else window
    return _windowed(call, [kind(k, s, p, d) for k, s, p, d in zip(kernel, *sides, strict=True)])


def pooling(call: OperatorCall) -> ImageAxes | None:
    given = call["kernel_size"]
    n = int(call.kind.name.split("pool")[1][0])  # max_pool2d_with_indices
    kernel = _sides(given, n)
    sides = (_sides(call.get(name, default), n) for name, default in (("stride", kernel), ("padding", 0), ("dilation", 1)))
    return _windowed(call, [window(k, s, p, d) for k, s, p, d in zip(kernel, *sides, strict=True)])


def adaptive_pooling(call: OperatorCall) -> ImageAxes | None:
    n = len(call["output_size"])
    return _windowed(call, [adaptive(i, o) for i, o in zip(call.source.shape[-n:], call.result.shape[-n:], strict=True)])


def upsampling(call: OperatorCall) -> ImageAxes | None:
    name = call.kind.name
    n = call.source.dim() - 2
    scales = [call.get(key, None) for key in (("scales_d", "scales_h", "scales_w")[-n:] if n > 1 else ("scales",))]
    corners, taps = bool(call.get("align_corners", False)), []
    for i, o, scale in zip(call.source.shape[2:], call.result.shape[2:], scales, strict=True):
        step = Fraction(1 / scale).limit_denominator(4096) if scale else Fraction(i, o)
        if "nearest" in name:
            taps.append(nearest(step, centred="exact" in name))
        else:
            if corners:
                step = Fraction(i - 1, o - 1) if o > 1 else Fraction(0)
            before, after = (1, 2) if "cubic" in name else (0, 1)
            taps.append(interpolated(step, before, after, corners, name.endswith("_aa")))
    return _windowed(call, taps)


def padding(call: OperatorCall) -> ImageAxes | None:
    left = call["pad" if "pad" in call.arguments else "padding"][::2]  # of the last dimension, the one before, ...
    return _windowed(call, [window(1, 1, p) for p in reversed(left)])


def unfolding(call: OperatorCall) -> ImageAxes | None:
    """im2col: (n, c, h, w) -> (n, c * kernel, places)."""
    shape, out = call.source.shape, []
    taps = []
    for side, k, s, p, d in zip(shape[-2:], *(call[name] for name in ("kernel_size", "stride", "padding", "dilation")), strict=True):
        taps.append(window(k, s, p, d))
        out.append((side + 2 * p - d * (k - 1) - 1) // s + 1)
    seen = call.source_axes and sights.windowed(
        call.source_axes, shape, [*shape[:-2], *out], {len(shape) - 2 + i: t for i, t in enumerate(taps)}
    )
    return seen and sights.reshaped(seen, [*shape[:-2], *out], [*shape[:-2], math.prod(out)])


def pixel_shuffle(call: OperatorCall) -> ImageAxes | None:
    return _windowed(call, [repeated(call["upscale_factor"])] * 2)


def pixel_unshuffle(call: OperatorCall) -> ImageAxes | None:
    r = call["downscale_factor"]
    return _windowed(call, [window(r, r)] * 2)
