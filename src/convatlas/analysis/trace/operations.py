"""What a trace records of one ATen operator."""

from dataclasses import dataclass

Shape = tuple[int, ...]


CONVOLUTIONS = frozenset({"convolution", "_convolution", "cudnn_convolution"})


@dataclass(frozen=True, slots=True)
class Kernel:
    """A convolution's, and the embedding that it works on."""

    sides: Shape
    channels_in: int
    channels_out: int
    groups: int
    reduced_from: int | None  # channels before the 1x1 convolution whose result it reads; None where there is none


@dataclass(slots=True)
class Operation:
    """One ATen operator. Bytes are those of the tensors that it reads and writes; a view moves none."""

    order: int  # among all of the forward
    name: str
    macs: int
    read: int
    written: int
    activation: int  # bytes of its result where that is a new tensor; indices and statistics beside it are left out
    depth: int  # convolutions and linear layers on the longest path up to its result
    grid: bool  # its result is a map, with more than one place along every axis of the image
    understood: bool
    kernel: Kernel | None = None
    cut: int = 0  # elements of activations, the input left out, that are read after it
