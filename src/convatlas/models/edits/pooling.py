"""Another way of subsampling in place of the poolings."""

from typing import Any, Literal

from torch import nn

from convatlas.errors import UsageError
from convatlas.layers.lenet import Subsample
from convatlas.layers.subsampling import Subsampling
from convatlas.models.edits.record import EditRecord
from convatlas.models.edits.target import Target

POOLINGS = {nn.MaxPool2d: "max", nn.AvgPool2d: "average", Subsampling: "stride", Subsample: "subsample"}


class SwapPooling(EditRecord, frozen=True, kw_only=True, tag=True):
    """The maximum or the average of each window, or the pixel at its centre, in place of every pooling with a
    window, LeNet-5's subsampling included. The pixel at the centre (stride) is what a convolution before
    would give at the pooling's stride.

    Window, stride and padding stay; averages leave the padding out. Poolings at stride 1 are no subsampling,
    and stay with to=stride. A swap to the pooling that it has is refused, since it touches nothing.
    """

    to: Literal["average", "max", "stride"]

    def change(self, target: Target) -> bool:
        replacements = {}
        for path, pool in target.layers(*POOLINGS):
            geometry = _geometry(path, pool)
            is_subsampling = self.to != "stride" or geometry["stride"] != 1
            if POOLINGS[type(pool)] != self.to and is_subsampling:
                replacements[pool] = self._pool(path, geometry)
        target.replace(replacements)
        return bool(replacements)

    def _pool(self, path: str, geometry: dict[str, Any]) -> nn.Module:
        if self.to == "max":
            return nn.MaxPool2d(**geometry)
        if self.to == "average":
            return nn.AvgPool2d(**geometry, count_include_pad=False)
        try:
            return Subsampling(**geometry)
        except ValueError as error:
            raise UsageError(f"{path} cannot become a stride: {error}") from None

    def nothing(self, target: Target) -> str:
        kinds = sorted({POOLINGS[type(pool)] for _, pool in target.layers(*POOLINGS)})
        if not kinds:
            return "it has no pooling with a window"
        at_stride_1 = " at stride 1" if self.to == "stride" and kinds != ["stride"] else " already"
        return f"its poolings are {' and '.join(kinds)}{at_stride_1}"


def _geometry(path: str, pool: nn.Module) -> dict[str, Any]:
    """Kernel, stride and padding, a number or (height, width) each, and whether sizes round up."""
    if isinstance(pool, Subsample):
        return {"kernel_size": 2, "stride": 2, "padding": 0, "ceil_mode": False}
    assert isinstance(pool, nn.MaxPool2d | nn.AvgPool2d | Subsampling)
    if isinstance(pool, nn.MaxPool2d) and (_side(pool.dilation) != 1 or pool.return_indices):
        raise UsageError(f"{path} is dilated or returns indices: no other pooling has its windows")
    if isinstance(pool, nn.AvgPool2d) and pool.divisor_override is not None:
        raise UsageError(f"{path} divides by {pool.divisor_override}: it is no average of its windows")
    sides = {name: _side(getattr(pool, name)) for name in ("kernel_size", "stride", "padding")}
    return sides | {"ceil_mode": pool.ceil_mode}


def _side(value: int | tuple[int, ...]) -> int | tuple[int, ...]:
    """One number where both are equal."""
    return value[0] if isinstance(value, tuple) and len(set(value)) == 1 else value
