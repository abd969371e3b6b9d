"""The reading of one trace: a row for every layer, totals, and the same by block and by stage."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from convatlas.analysis.design_principles import Finding, principles
from convatlas.analysis.receptive_field.intervals import Extent
from convatlas.analysis.rows import CONVENTION, ModuleNode, Row, merge_rows, row_of
from convatlas.analysis.trace.modules import ModuleCall
from convatlas.analysis.trace.operations import CONVOLUTIONS
from convatlas.analysis.trace.trace import Trace
from convatlas.errors import UserError, unknown_name


class ReportData:
    """What one forward showed. Made by `analyze`."""

    def __init__(self, found: Trace, model: str = "", edition: str | None = None):
        self.trace = found
        self.model, self.edition = model or found.name, edition
        self.inputs = found.inputs  # the shape of each tensor given
        self.params, self.trainable, self.buffers = found.params, found.trainable, found.buffers
        self.rows = [row_of(call) for call in found.calls if call.leaf or call.operations]
        self.macs = sum(row.macs for row in self.rows)
        self.flops = 2 * self.macs
        self.conv_macs = sum(o.macs for call in found.calls for o in call.operations if o.name in CONVOLUTIONS)
        self.activation_bytes = found.input_bytes + sum(row.activation_bytes for row in self.rows)
        self.inference_bytes, self.inference_peak_at = found.peak, found.peak_at
        self.read_bytes = sum(row.read_bytes for row in self.rows)
        self.written_bytes = sum(row.written_bytes for row in self.rows)
        self.notes = _notes(found)
        self._calls = {call.path: call for call in found.calls}

    @cached_property
    def saved_bytes_by_module(self) -> dict[str, int] | None:
        """Bytes that autograd keeps for the backward pass, by module; None where the module does not run in training mode."""
        return self.trace.saved_for_backward()

    @property
    def training_bytes(self) -> int | None:
        """Bytes of activations that autograd keeps of one forward in training mode."""
        return None if self.saved_bytes_by_module is None else sum(self.saved_bytes_by_module.values())

    @property
    def intensity(self) -> float:
        """FLOPs for each byte that the operators read and write, one image."""
        return self.flops / max(self.read_bytes + self.written_bytes, 1)

    @property
    def depth(self) -> int:
        """Convolutions and linear layers on the longest path."""
        return max((o.depth for call in self.trace.calls for o in call.operations), default=0)

    @property
    def field(self) -> int:
        """Side of the largest receptive field of a map: what is left of the image after pooling it whole is not counted."""
        maps = (row for row in self.rows if len(row.output_shape) > 2 and min(row.output_shape[2:]) > 1 and not row.sees_whole_image)
        return max((max(row.receptive_field, default=0) for row in maps), default=0)

    @property
    def size_bytes(self) -> dict[str, int]:
        """The weights and buffers, by precision."""
        return {name: (self.params + self.buffers) * size for name, size in (("fp32", 4), ("bf16", 2), ("int8", 1))}

    @cached_property
    def principles(self) -> list[Finding]:
        return principles(self.trace, self.stages)

    def receptive_field(self, path: str = "") -> tuple[Extent, ...]:
        """(start, size, stride) along each axis of the image, of the output of the module at `path`; "" is the whole network's.

        Raises UsageError for a path that did not run, UserError for an output that sees no pixel.
        """
        call = self._calls.get(path)
        if call is None:
            raise unknown_name(f"layer of {self.model}", path, [p for p in self._calls if p])
        if not call.axes:
            raise UserError(f"{path or self.model} gives nothing that comes from the image: no receptive field")
        return tuple(axis.field.extent for axis in call.axes)

    def pixels(self, path: str, unit: Sequence[int]) -> tuple[tuple[int, int] | None, ...]:
        """First and last pixel that one unit of a module's output sees, along each axis; outside the image in the padding.

        `unit`: its indices in the last dimensions of the output, (row, column) in a map. Raises as `receptive_field` does.
        """
        self.receptive_field(path)
        call = self._calls[path]
        before = len(call.outputs[0]) - len(unit)
        return tuple(axis.pixels(0 if axis.dim is None or axis.dim < before else unit[axis.dim - before]) for axis in call.axes or ())

    def module(self, path: str) -> Row:
        """A module with all that is in it."""
        if path not in self._calls:
            raise unknown_name(f"layer of {self.model}", path, [p for p in self._calls if p])
        return self._gathered(path, [row for row in self.rows if _within(row.path, path)])

    def at_depth(self, depth: int | None) -> list[Row]:
        """The rows with all that lies deeper than `depth` names put together; None: every layer by itself."""
        if depth is None:
            return self.rows
        groups: dict[str, list[Row]] = {}
        for row in self.rows:
            groups.setdefault(".".join(row.path.split(".")[:depth]), []).append(row)
        return [self._gathered(path, inside) for path, inside in groups.items()]

    @cached_property
    def tree(self) -> ModuleNode:
        """The network as its modules hold each other."""
        return self._part("", self.rows)

    def _part(self, path: str, rows: Sequence[Row]) -> ModuleNode:
        groups: dict[str, list[Row]] = {}
        depth = path.count(".") + 2 if path else 1
        for row in rows:
            if row.path != path:
                groups.setdefault(".".join(row.path.split(".")[:depth]), []).append(row)
        own = [ModuleNode(row, ()) for row in rows if row.path == path and groups]  # what a module does beside its parts
        parts = [self._part(name, inside) for name, inside in groups.items()]
        return ModuleNode(self._gathered(path, rows), (*parts, *own))

    def _gathered(self, path: str, inside: Sequence[Row]) -> Row:
        if len(inside) == 1 and inside[0].path == path:
            return inside[0]
        if path in self._calls:
            return merge_rows(self._calls[path], inside)
        last = self._calls[inside[-1].path]  # a list of modules has no forward of its own
        return merge_rows(ModuleCall(path, "ModuleList", 0, False, outputs=last.outputs, axes=last.axes), inside)

    @property
    def stages(self) -> list[Row]:
        """The parts that the network's own forward names; where that is a single one, the parts of it."""
        depth, rows = 1, self.at_depth(1)
        while sum(row.layers > 1 for row in rows) == 1 and len(rows) <= 2 and depth < 5:
            depth += 1
            rows = self.at_depth(depth)
        return rows

    def document(self, depth: int | None = None) -> dict[str, Any]:
        """The JSON document of `convatlas show`."""
        return {
            "model": self.model,
            "edition": self.edition,
            "input": list(self.inputs[0][1:]) if len(self.inputs) == 1 else [list(shape) for shape in self.inputs],
            "params": self.params,
            "trainable_params": self.trainable,
            "macs": self.macs,
            "conv_macs": self.conv_macs,
            "flops": self.flops,
            "activation_bytes": self.activation_bytes,
            "inference_bytes": self.inference_bytes,
            "training_bytes": self.training_bytes,
            "depth": self.depth,
            "read_bytes": self.read_bytes,
            "written_bytes": self.written_bytes,
            "intensity": round(self.intensity, 3),
            "size_bytes": self.size_bytes,
            "convention": CONVENTION,
            "notes": self.notes,
            "principles": self.principles,
            "rows": self.at_depth(depth),
        }


def _within(path: str, parent: str) -> bool:
    return not parent or path == parent or path.startswith(parent + ".")


def _notes(found: Trace) -> list[str]:
    """What a reader of the totals must know."""
    notes = []
    strangers: dict[str, list[str]] = {}
    for call in found.calls:
        for operation in call.operations:
            if not operation.understood:
                strangers.setdefault(operation.name, []).append(call.path or found.name)
    for name, paths in strangers.items():
        where = ", ".join(dict.fromkeys(paths[:3])) + (", ..." if len(set(paths)) > 3 else "")
        notes.append(f"not understood: {name} ({len(paths)} x, in {where}): taken to multiply nothing and to see all that goes into it")
    if found.uncalled:
        tops: dict[str, int] = {}
        for path, params in found.uncalled:
            top = path.split(".")[0]
            tops[top] = tops.get(top, 0) + params
        notes += [f"not called in evaluation: {path} ({params:,} parameters, counted in the total)" for path, params in tops.items()]
    return notes
