"""The mirror images beyond an image's borders."""

from torch import Tensor


def mirror(positions: Tensor, size: int) -> Tensor:
    """Positions of any integers as those in 0 ... size - 1 that a row of mirror images shows there.

    The pixels of the border are not repeated: ... 2 1 0 1 2 ... size-1 size-2 ...
    """
    period = max(2 * (size - 1), 1)
    positions = positions % period
    return positions.where(positions < size, period - positions)
