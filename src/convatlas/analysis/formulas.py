"""The papers' arithmetic, one function a formula, sides along one axis. Multiply-adds; biases and borders left out unless said."""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from convatlas.errors import UsageError

Sides = int | Sequence[int]
"""A kernel or a map: one side of a square, or (height, width)."""


def area(sides: Sides) -> int:
    return sides * sides if isinstance(sides, int) else math.prod(sides)


# Shapes


def output_size(size: int, kernel: int, stride: int = 1, padding: int = 0, dilation: int = 1, ceil: bool = False) -> int:
    """Side of a convolution's or a pooling's output (arXiv:1603.07285, relationship 15).

    `ceil`: as Caffe pools, which rounds up but begins no window in the padding behind the map.

    Raises UsageError where the kernel is larger than the padded map.
    """
    room = size + 2 * padding - dilation * (kernel - 1) - 1
    if room < 0:
        raise UsageError(f"a kernel of {kernel}, dilation {dilation}, does not fit into a side of {size} padded by {padding}")
    if not ceil:
        return room // stride + 1
    out = -(-room // stride) + 1
    return out - 1 if (out - 1) * stride >= size + padding else out


def transposed_output_size(size: int, kernel: int, stride: int = 1, padding: int = 0, dilation: int = 1, output_padding: int = 0) -> int:
    """Side of a transposed convolution's output: o = (i - 1) s - 2 p + d (k - 1) + a + 1.

    arXiv:1603.07285, relationship 14, with a dilation d. It restores the size that the convolution of the same numbers had read, where
    a = (i + 2 p - d (k - 1) - 1) mod s; never its values.
    """
    return (size - 1) * stride - 2 * padding + dilation * (kernel - 1) + output_padding + 1


def receptive_field(layers: Iterable[tuple[int, int, int]]) -> int:
    """Side of the field of a chain of layers (kernel, stride, dilation): 1 + the sum of (k - 1) d over the strides before."""
    field, step = 1, 1
    for kernel, stride, dilation in layers:
        field += (kernel - 1) * dilation * step
        step *= stride
    return field


# Parameters and multiply-adds


def convolution_params(channels_in: int, channels_out: int, kernel: Sides, groups: int = 1, bias: bool = False) -> int:
    """Weights of a convolution: dilation and transposition change nothing."""
    _divides(groups, channels_in, channels_out)
    return channels_in // groups * channels_out * area(kernel) + (channels_out if bias else 0)


def convolution_macs(channels_in: int, channels_out: int, kernel: Sides, output: Sides, groups: int = 1) -> int:
    """Every weight is used once at every place of the output; of a transposed convolution, at every place of its input: give that."""
    return convolution_params(channels_in, channels_out, kernel, groups) * area(output)


def separable_params(channels_in: int, channels_out: int, kernel: Sides) -> int:
    """A depthwise convolution, then a 1x1 one (arXiv:1704.04861, sec. 3.1)."""
    return convolution_params(channels_in, channels_in, kernel, groups=channels_in) + convolution_params(channels_in, channels_out, 1)


def separable_macs(channels_in: int, channels_out: int, kernel: Sides, output: Sides) -> int:
    """arXiv:1704.04861, eq. 5."""
    return separable_params(channels_in, channels_out, kernel) * area(output)


def separable_ratio(channels_out: int, kernel: Sides) -> float:
    """1/N + 1/k^2: a separable convolution's cost to the full one's (arXiv:1704.04861, sec. 3.1)."""
    return 1 / channels_out + 1 / area(kernel)


def locally_connected_params(channels_in: int, channels_out: int, kernel: Sides, output: Sides) -> int:
    """A kernel of its own at every place of the output: as many weights as a convolution has multiply-adds."""
    return convolution_params(channels_in, channels_out, kernel) * area(output)


def dense_params(units_in: int, units_out: int) -> int:
    """Every unit with every unit; as many multiply-adds."""
    return units_in * units_out


# Factorisation (arXiv:1409.1556, sec. 2.3; arXiv:1512.00567, sec. 3)


def stack_ratio(kernels: Sequence[Sides], replaced: Sides) -> float:
    """Cost of convolutions one after another, all with the same channels and stride 1, to that of the one that they replace.

    (3, 3) for 5: 18/25; ((1, 3), (3, 1)) for 3: 2/3; (2, 2) for 3: 8/9; (3, 3, 3) for 7: 27/49.
    Raises UsageError where the stack does not see what the one kernel sees.
    """
    seen = [receptive_field((_pair(k)[axis], 1, 1) for k in kernels) for axis in (0, 1)]
    if tuple(seen) != _pair(replaced):
        raise UsageError(f"kernels {tuple(kernels)} see {seen[0]}x{seen[1]}, not {'x'.join(map(str, _pair(replaced)))}: choose others")
    return sum(map(area, kernels)) / area(replaced)


class GridReduction(NamedTuple):
    """From d x d x k to d/2 x d/2 x 2k, each convolution a 1x1 as the paper counts."""

    convolve_then_pool: int  # stride 1 with 2k filters on the large grid: dear
    pool_then_convolve: int  # a quarter, through a bottleneck of d/2 x d/2 x k
    side_by_side: int  # stride-2 convolution with k filters, concatenated with the pooled k maps: half of that, no bottleneck
    bottleneck: int  # units that all information passes when pooling first
    before: int  # units of the input
    after: int  # units of the output


def grid_reduction(side: int, channels: int, kernel: Sides = 1) -> GridReduction:
    """Reducing the grid three ways (arXiv:1512.00567, sec. 5). `side` is even. Raises UsageError where it is not."""
    if side % 2:
        raise UsageError(f"the grid's side is {side}: expected an even number, which halves")
    half = side // 2
    return GridReduction(
        convolution_macs(channels, 2 * channels, kernel, side),
        convolution_macs(channels, 2 * channels, kernel, half),
        convolution_macs(channels, channels, kernel, half),
        half * half * channels,
        side * side * channels,
        half * half * 2 * channels,
    )


# Heads, activations


def fully_connected_head_params(channels: int, side: Sides, units: int) -> int:
    """A linear layer on a flattened map: VGG's fc6 is 512 x 7 x 7 x 4096 = 102,760,448 (arXiv:1409.1556, Table 1)."""
    return dense_params(channels * area(side), units)


def pooled_head_params(channels: int, units: int) -> int:
    """A linear layer after global average pooling (arXiv:1312.4400, sec. 3.2): fewer by the places of the map, 49 times for 7 x 7."""
    return dense_params(channels, units)


def activation_count(shapes: Iterable[Sequence[int]]) -> int:
    """Numbers that a forward makes, of the shape of each map: times 4 for bytes in fp32."""
    return sum(math.prod(shape) for shape in shapes)


# Gradients


def average_pool_gradient(gradient: Tensor, kernel: int) -> Tensor:
    """(..., h, w) -> (..., h k, w k): windows that do not overlap share their gradient equally, so that its sum is kept."""
    return gradient.repeat_interleave(kernel, -2).repeat_interleave(kernel, -1) / (kernel * kernel)


def max_pool_gradient(gradient: Tensor, images: Tensor, kernel: int) -> Tensor:
    """(..., h, w) and the pooling's input (..., h k, w k) -> the latter's: each window's to its first largest, so that the sum is kept."""
    before, (h, w) = gradient.shape[:-2], gradient.shape[-2:]
    windows = images.reshape(*before, h, kernel, w, kernel).transpose(-3, -2).flatten(-2)
    first = windows.argmax(-1, keepdim=True)
    routed = torch.zeros_like(windows).scatter(-1, first, gradient.unsqueeze(-1))
    return routed.reshape(*before, h, w, kernel, kernel).transpose(-3, -2).reshape(images.shape)


# Training


def iterations_per_epoch(images: int, batch: int, drop_last: bool = False) -> int:
    return images // batch if drop_last else -(-images // batch)


def epochs(iterations: int, batch: int, images: int) -> float:
    """VGG's 370,000 iterations of 256 over 1,281,167 images are 74 (arXiv:1409.1556, sec. 3.1)."""
    return iterations * batch / images


def _pair(sides: Sides) -> tuple[int, int]:
    return (sides, sides) if isinstance(sides, int) else (sides[0], sides[1])


def _divides(groups: int, *channels: int) -> None:
    for count in channels:
        if groups < 1 or count % groups:
            raise UsageError(f"{groups} groups do not divide {count} channels")
