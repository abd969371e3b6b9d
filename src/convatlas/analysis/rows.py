"""The rows of a report: one layer, or several merged."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from convatlas.analysis.trace.modules import ModuleCall
from convatlas.storage.records import Record

CONVENTION = (
    "One image. Multiply-adds (macs) are those of convolutions, transposed convolutions, linear layers and "
    "matrix products; FLOPs are twice as many; biases, normalisation, activations, pooling and additions "
    "count as none. Receptive field and stride are in input pixels, height x width, as if the map continued "
    "beyond its border. MB are 10^6 bytes."
)


class Row(Record, frozen=True):
    """A layer, or several merged. Rows hold their own cost only: those of a table add up to its total."""

    path: str
    op: str  # the module's class; for functional calls inside a larger module, the operators
    output_shape: list[int]  # of the main output: `logits` or `out` among several, else the first
    params: int  # a shared parameter counts where it is first used
    macs: int
    flops: int
    # Sizes [h, w], 0 for a field without pixels; empty for an output that does not depend on the image.
    receptive_field: list[int]
    start: list[int]  # first pixel of the first unit; negative in the padding
    stride: list[float]
    sees_whole_image: bool  # the field is global: a gate or a normalisation depends on the whole image
    activation_bytes: int
    read_bytes: int
    written_bytes: int
    intensity: float  # FLOPs for each byte read or written
    calls: int  # of the module
    layers: int = 1  # merged into this row

    @property
    def bytes(self) -> int:
        return self.read_bytes + self.written_bytes


class ModuleNode(NamedTuple):
    """A module with its submodules, in the order in which they ran."""

    row: Row
    children: "tuple[ModuleNode, ...]"


# Operators that only rearrange the same elements; a row's description leaves them out.
_VIEW_OPERATORS = frozenset(
    ["view", "_unsafe_view", "t", "detach", "alias", "empty", "expand", "unsqueeze", "squeeze", "lift_fresh"]
)


def row_of(call: ModuleCall) -> Row:
    """The row of one module, without its submodules."""
    operations = call.operations
    op = call.class_name
    if not call.is_leaf:
        names = [o.name.strip("_") for o in operations if o.name not in _VIEW_OPERATORS]
        op = " + ".join(dict.fromkeys(names)) or op
    macs = sum(o.macs for o in operations)
    read_bytes = sum(o.read_bytes for o in operations)
    written_bytes = sum(o.written_bytes for o in operations)
    return Row(
        path=call.path,
        op=op,
        output_shape=list(call.output_shapes[0]) if call.output_shapes else [],
        params=call.params,
        macs=macs,
        flops=2 * macs,
        **_receptive_field(call),
        activation_bytes=sum(o.activation_bytes for o in operations),
        read_bytes=read_bytes,
        written_bytes=written_bytes,
        intensity=round(2 * macs / max(read_bytes + written_bytes, 1), 3),
        calls=call.num_calls,
    )


def merge_rows(call: ModuleCall, rows: Sequence[Row]) -> Row:
    """The row of a module with its submodules: their costs added up, the module's output."""

    def total(name: str) -> int:
        return sum(getattr(row, name) for row in rows)

    return Row(
        path=call.path,
        op=call.class_name,
        output_shape=list(call.output_shapes[0]) if call.output_shapes else [],
        params=total("params"),
        macs=total("macs"),
        flops=total("flops"),
        **_receptive_field(call),
        activation_bytes=total("activation_bytes"),
        read_bytes=total("read_bytes"),
        written_bytes=total("written_bytes"),
        intensity=round(total("flops") / max(total("read_bytes") + total("written_bytes"), 1), 3),
        calls=max(call.num_calls, 1),
        layers=sum(row.layers for row in rows),
    )


def _receptive_field(call: ModuleCall) -> dict[str, Any]:
    axes = call.axes or ()
    extents = [axis.field.extent for axis in axes]
    return {
        "receptive_field": [extent.size for extent in extents],
        "start": [extent.start for extent in extents],
        "stride": [extent.stride for extent in extents],
        "sees_whole_image": any(axis.field.is_global for axis in axes),
    }


def format_size(sides: Iterable[float]) -> str:
    """483x483 as 483; height x width where they differ."""
    texts = [f"{side:g}" for side in sides]
    return texts[0] if len(set(texts)) == 1 else "x".join(texts)
