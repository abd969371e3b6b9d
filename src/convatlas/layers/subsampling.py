"""Subsampling without pooling."""

from torch import Tensor, nn
from torch.nn.modules.utils import _pair


class Subsampling(nn.Module):
    """The pixel at the centre of each window of a pooling: (n, c, h, w) -> the pooling's grid.

    After a convolution it gives what the convolution would at the pooling's stride.
    """

    def __init__(
        self,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int],
        padding: int | tuple[int, int] = 0,
        ceil_mode: bool = False,
    ):
        super().__init__()
        self.kernel_size = kernel_size
        self.stride = stride
        self.padding = padding
        self.ceil_mode = ceil_mode
        kernels, strides, paddings = _pair(kernel_size), _pair(stride), _pair(padding)
        self.rows = centres(kernels[0], strides[0], paddings[0], ceil_mode)
        self.columns = centres(kernels[1], strides[1], paddings[1], ceil_mode)

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, self.rows, self.columns]

    def extra_repr(self) -> str:
        return (
            f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}, "
            f"ceil_mode={self.ceil_mode}"
        )


def centres(kernel: int, stride: int, padding: int, ceil_mode: bool) -> slice:
    """The centres of a pooling's windows along a side. Raises ValueError for windows that have none in the
    image."""
    first = (kernel - 1) // 2 - padding
    beyond_last = kernel // 2 - padding  # pixels between the last centre and the end of the image
    if first < 0 or beyond_last < 0 or (ceil_mode and stride + padding > kernel // 2 + 1):
        raise ValueError("a window's centre would be outside the image")
    skipped = max(0, beyond_last - (stride - 1 if ceil_mode else 0))
    return slice(first, -skipped or None, stride)
