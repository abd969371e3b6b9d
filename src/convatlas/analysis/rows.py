"""The lines of a report: one layer, or several together."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from convatlas.analysis.trace.modules import ModuleCall
from convatlas.storage.records import Record

CONVENTION = (
    "One image. Multiply-adds (macs) are those of convolutions, transposed convolutions, linear layers and matrix products; "
    "FLOPs are twice as many; biases, normalisation, activations, pooling and additions count as none. "
    "Receptive field and stride are in input pixels, height x width, the map taken to go on beyond its border. "
    "MB are 10^6 bytes."
)


class Row(Record, frozen=True):
    """A layer, or several together. What it costs itself: the rows of a table add up to its total."""

    path: str
    op: str  # the module's class; of functional calls inside a larger module, the operators
    output_shape: list[int]  # of the first output
    params: int  # shared ones stand where they are first used
    macs: int
    flops: int
    receptive_field: list[int]  # sizes [h, w]; empty where nothing is left of the image, null for what sees no pixel
    start: list[int]  # first pixel that the first unit sees; negative in the padding
    stride: list[float]
    sees_whole_image: bool  # a gate or a normalisation lets each unit see the whole image
    activation_bytes: int
    read_bytes: int
    written_bytes: int
    intensity: float  # FLOPs a byte moved
    calls: int  # how often the module ran
    layers: int = 1  # how many layers stand in this row

    @property
    def bytes(self) -> int:
        return self.read_bytes + self.written_bytes


class ModuleNode(NamedTuple):
    """A module with those in it, in the order in which they ran."""

    row: Row
    parts: "tuple[ModuleNode, ...]"


def row_of(call: ModuleCall) -> Row:
    own = [o for o in call.operations if o.name not in _SILENT]
    kind = call.kind if call.leaf else " + ".join(dict.fromkeys(o.name.strip("_") for o in own)) or call.kind
    shape = call.outputs[0] if call.outputs else ()
    read, written = sum(o.read for o in call.operations), sum(o.written for o in call.operations)
    macs = sum(o.macs for o in call.operations)
    return Row(
        path=call.path,
        op=kind,
        output_shape=list(shape),
        params=call.params,
        macs=macs,
        flops=2 * macs,
        **_receptive_field(call),
        activation_bytes=sum(o.activation for o in call.operations),
        read_bytes=read,
        written_bytes=written,
        intensity=round(2 * macs / max(read + written, 1), 3),
        calls=call.num_calls,
    )


# Operators that only name the same elements anew, left out of a row's description
_SILENT = {"view", "_unsafe_view", "t", "detach", "alias", "empty", "expand", "unsqueeze", "squeeze", "lift_fresh"}


def merge_rows(call: ModuleCall, inside: Sequence[Row]) -> Row:
    def total(name: str) -> int:
        return sum(getattr(row, name) for row in inside)

    return Row(
        path=call.path,
        op=call.kind,
        output_shape=list(call.outputs[0]) if call.outputs else [],
        params=total("params"),
        macs=total("macs"),
        flops=total("flops"),
        **_receptive_field(call),
        activation_bytes=total("activation_bytes"),
        read_bytes=total("read_bytes"),
        written_bytes=total("written_bytes"),
        intensity=round(total("flops") / max(total("read_bytes") + total("written_bytes"), 1), 3),
        calls=max(call.num_calls, 1),
        layers=sum(row.layers for row in inside),
    )


def _receptive_field(call: ModuleCall) -> dict[str, Any]:
    extents = [axis.field.extent for axis in call.axes or ()]
    return {
        "receptive_field": [e.size for e in extents],
        "start": [e.start for e in extents],
        "stride": [e.stride for e in extents],
        "sees_whole_image": any(axis.field.is_global for axis in call.axes or ()),
    }


def sides(values: Iterable[float]) -> str:
    """483x483 as 483: height x width where they differ."""
    shown = [f"{v:g}" for v in values]
    return "" if not shown else shown[0] if len(set(shown)) == 1 else "x".join(shown)
