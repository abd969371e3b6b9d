"""The papers' arithmetic, one function for each formula, for sizes along one axis.

Costs are in multiply-adds. They ignore biases and borders unless stated otherwise.
"""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from convatlas.errors import UsageError

Size2d = int | Sequence[int]
"""The size of a kernel or a feature map: the side of a square, or (height, width)."""


def area(size: Size2d) -> int:
    return size * size if isinstance(size, int) else math.prod(size)


# Shapes


def output_size(
    size: int, kernel: int, stride: int = 1, padding: int = 0, dilation: int = 1, ceil: bool = False
) -> int:
    """Output size of a convolution or a pooling (arXiv:1603.07285, relationship 15).

    `ceil`: round up as Caffe's pooling does, which starts no window in the padding behind the map.

    Raises UsageError where the kernel is larger than the padded map.
    """
    slack = size + 2 * padding - dilation * (kernel - 1) - 1
    if slack < 0:
        raise UsageError(
            f"a kernel of {kernel}, dilation {dilation}, does not fit into a side of {size} "
            f"padded by {padding}"
        )
    if not ceil:
        return slack // stride + 1
    rounded_up = -(-slack // stride) + 1
    last_window_starts_behind_map = (rounded_up - 1) * stride >= size + padding
    return rounded_up - 1 if last_window_starts_behind_map else rounded_up


def transposed_output_size(
    size: int, kernel: int, stride: int = 1, padding: int = 0, dilation: int = 1, output_padding: int = 0
) -> int:
    """Output size of a transposed convolution: o = (i - 1) s - 2 p + d (k - 1) + a + 1.

    arXiv:1603.07285, relationship 14, with a dilation d. It restores the input size of the convolution with
    the same numbers, where a = (i + 2 p - d (k - 1) - 1) mod s; never its values.
    """
    return (size - 1) * stride - 2 * padding + dilation * (kernel - 1) + output_padding + 1


def receptive_field(layers: Iterable[tuple[int, int, int]]) -> int:
    """Receptive field of a chain of layers (kernel, stride, dilation).

    1 + the sum of (k - 1) d times the product of the strides before.
    """
    field = 1
    total_stride = 1
    for kernel, stride, dilation in layers:
        field += (kernel - 1) * dilation * total_stride
        total_stride *= stride
    return field


# Parameters and multiply-adds


def convolution_params(
    in_channels: int, out_channels: int, kernel: Size2d, groups: int = 1, bias: bool = False
) -> int:
    """Parameters of a convolution; dilation and transposition change nothing.

    Raises UsageError for groups that do not divide the channels.
    """
    _check_groups(groups, in_channels, out_channels)
    return in_channels // groups * out_channels * area(kernel) + (out_channels if bias else 0)


def convolution_macs(
    in_channels: int, out_channels: int, kernel: Size2d, output: Size2d, groups: int = 1
) -> int:
    """Every weight is used once at every position of the output.

    In a transposed convolution it is used at every position of the input: pass its input size as `output`.
    """
    return convolution_params(in_channels, out_channels, kernel, groups) * area(output)


def separable_params(in_channels: int, out_channels: int, kernel: Size2d) -> int:
    """Weights of a depthwise convolution followed by a 1x1 convolution (arXiv:1704.04861, sec. 3.1)."""
    depthwise = convolution_params(in_channels, in_channels, kernel, groups=in_channels)
    return depthwise + convolution_params(in_channels, out_channels, 1)


def separable_macs(in_channels: int, out_channels: int, kernel: Size2d, output: Size2d) -> int:
    """Multiply-adds of a depthwise convolution followed by a 1x1 convolution (arXiv:1704.04861, eq. 5)."""
    return separable_params(in_channels, out_channels, kernel) * area(output)


def separable_ratio(out_channels: int, kernel: Size2d) -> float:
    """1/N + 1/k^2: cost of a separable convolution relative to the full one (arXiv:1704.04861, sec. 3.1)."""
    return 1 / out_channels + 1 / area(kernel)


def locally_connected_params(in_channels: int, out_channels: int, kernel: Size2d, output: Size2d) -> int:
    """Weights of a layer with a separate kernel at every position of the output.

    As many as a convolution has multiply-adds.
    """
    return convolution_params(in_channels, out_channels, kernel) * area(output)


def dense_params(in_features: int, out_features: int) -> int:
    """Weights of a fully connected layer, and its multiply-adds."""
    return in_features * out_features


# Factorisation (arXiv:1409.1556, sec. 2.3; arXiv:1512.00567, sec. 3)


def stack_ratio(kernels: Sequence[Size2d], replaced: Size2d) -> float:
    """Cost of a stack of convolutions relative to the one convolution that it replaces.

    All have the same channels and stride 1. (3, 3) for 5: 18/25; ((1, 3), (3, 1)) for 3: 2/3; (2, 2) for 3:
    8/9; (3, 3, 3) for 7: 27/49.

    Raises UsageError where the receptive field of the stack is not that of the replaced kernel.
    """
    height, width = (receptive_field((_pair(kernel)[axis], 1, 1) for kernel in kernels) for axis in (0, 1))
    expected = _pair(replaced)
    if (height, width) != expected:
        raise UsageError(
            f"kernels {tuple(kernels)} have a receptive field of {height}x{width}, not "
            f"{expected[0]}x{expected[1]}: choose others"
        )
    return sum(map(area, kernels)) / area(replaced)


class GridReduction(NamedTuple):
    """Three ways from a d x d x k map to d/2 x d/2 x 2k, each convolution counted as 1x1 as in the paper."""

    convolve_then_pool: int  # stride 1 with 2k filters on the large grid: expensive
    pool_then_convolve: int  # a quarter of that, through a bottleneck of d/2 x d/2 x k
    side_by_side: int  # stride-2 convolution with k filters beside pooled k maps: half of that, no bottleneck
    bottleneck: int  # units through which all information passes when pooling comes first
    before: int  # units of the input
    after: int  # units of the output


def grid_reduction(side: int, channels: int, kernel: Size2d = 1) -> GridReduction:
    """Costs of reducing a grid in three ways (arXiv:1512.00567, sec. 5).

    Raises UsageError where `side` is odd.
    """
    if side % 2:
        raise UsageError(f"the grid's side is {side}: expected an even number, which halves")
    half = side // 2
    return GridReduction(
        convolve_then_pool=convolution_macs(channels, 2 * channels, kernel, side),
        pool_then_convolve=convolution_macs(channels, 2 * channels, kernel, half),
        side_by_side=convolution_macs(channels, channels, kernel, half),
        bottleneck=half * half * channels,
        before=side * side * channels,
        after=half * half * 2 * channels,
    )


# Heads, activations


def fully_connected_head_params(channels: int, side: Size2d, units: int) -> int:
    """Weights of a linear layer on a flattened feature map.

    VGG's fc6 has 512 x 7 x 7 x 4096 = 102,760,448 (arXiv:1409.1556, Table 1).
    """
    return dense_params(channels * area(side), units)


def pooled_head_params(channels: int, units: int) -> int:
    """Weights of a linear layer after global average pooling (arXiv:1312.4400, sec. 3.2).

    Fewer than those of a fully connected head by the positions of the map, 49 times for 7 x 7.
    """
    return dense_params(channels, units)


def activation_count(shapes: Iterable[Sequence[int]]) -> int:
    """Elements of all feature maps of a forward pass, given their shapes; times 4 for bytes in fp32."""
    return sum(math.prod(shape) for shape in shapes)


# Gradients


def average_pool_gradient(gradient: Tensor, kernel: int) -> Tensor:
    """Gradient of average pooling without overlap: (..., h, w) -> (..., h k, w k).

    The units of a window share its gradient equally, so its sum is preserved.
    """
    return gradient.repeat_interleave(kernel, -2).repeat_interleave(kernel, -1) / (kernel * kernel)


def max_pool_gradient(gradient: Tensor, images: Tensor, kernel: int) -> Tensor:
    """Gradient of max pooling without overlap: (..., h, w) -> (..., h k, w k).

    `images` is the input of the pooling, (..., h k, w k). The first largest unit of a window gets all of its
    gradient, so its sum is preserved.
    """
    leading, (h, w) = gradient.shape[:-2], gradient.shape[-2:]
    windows = images.reshape(*leading, h, kernel, w, kernel).transpose(-3, -2).flatten(-2)
    first = windows.argmax(-1, keepdim=True)
    routed = torch.zeros_like(windows).scatter(-1, first, gradient.unsqueeze(-1))
    return routed.reshape(*leading, h, w, kernel, kernel).transpose(-3, -2).reshape(images.shape)


# Training


def iterations_per_epoch(num_images: int, batch_size: int, drop_last: bool = False) -> int:
    return num_images // batch_size if drop_last else -(-num_images // batch_size)


def epochs(iterations: int, batch_size: int, num_images: int) -> float:
    """VGG's 370,000 iterations of 256 over 1,281,167 images are 74 epochs (arXiv:1409.1556, sec. 3.1)."""
    return iterations * batch_size / num_images


def _pair(size: Size2d) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def _check_groups(groups: int, *channels: int) -> None:
    for count in channels:
        if groups < 1 or count % groups:
            raise UsageError(f"{groups} groups do not divide {count} channels")
