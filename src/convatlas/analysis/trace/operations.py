"""The record of one ATen operator in a trace."""

from dataclasses import dataclass

from convatlas.analysis.receptive_field.call import OperatorCall

Shape = tuple[int, ...]


CONVOLUTIONS = frozenset({"convolution", "_convolution", "cudnn_convolution"})


@dataclass(frozen=True, slots=True)
class ConvSpec:
    """The sizes of a convolution, and whether its input was reduced by a 1x1 convolution before."""

    kernel_size: Shape
    stride: Shape
    dilation: Shape
    is_transposed: bool
    in_channels: int
    out_channels: int
    groups: int
    unreduced_channels: int | None  # input channels of the 1x1 convolution that reduced the input; else None


@dataclass(slots=True)
class Operation:
    """One ATen operator. Its bytes are those of the tensors that it reads and writes; a view moves none."""

    index: int  # in the order of the forward pass
    name: str
    macs: int
    read_bytes: int
    written_bytes: int
    activation_bytes: int  # of the result if it is a new tensor; without indices and statistics beside it
    depth: int  # convolutions and linear layers on the longest path to the result
    is_feature_map: bool  # the result has more than one unit along every axis of the image
    is_supported: bool
    module_call: int  # which call of its module it belongs to: 1 for the first
    # The operations that made its activations, by index; -1 for the first input of the network, -2 for the
    # second, and so on. Without weights and constants.
    sources: tuple[int, ...]
    output_shape: Shape
    conv: ConvSpec | None = None
    pool_window: tuple[Shape, Shape] | None = None  # kernel size and stride of a pooling
    live_elements: int = 0  # of the activations, the input excluded, that a later operation reads


def pool_window(call: OperatorCall) -> tuple[Shape, Shape] | None:
    """Kernel size and stride of a pooling; None for an adaptive one."""
    if "kernel_size" not in call.arguments:
        return None
    kernel_size = call["kernel_size"]
    sizes = (kernel_size, call.get("stride", kernel_size))
    kernel, stride = (tuple(size) if isinstance(size, list | tuple) else (size,) for size in sizes)
    return kernel, stride
