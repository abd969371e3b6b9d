"""The report of one trace: a row for every layer, totals, and rows merged by block and by stage."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from convatlas.analysis.design_principles import Finding, measure_principles
from convatlas.analysis.receptive_field.intervals import Extent
from convatlas.analysis.rows import CONVENTION, ModuleNode, Row, merge_rows, row_of
from convatlas.analysis.trace.modules import ModuleCall
from convatlas.analysis.trace.operations import CONVOLUTIONS
from convatlas.analysis.trace.trace import Trace
from convatlas.errors import UserError, unknown_name


class ReportData:
    """The figures of one forward pass. Made by `analyze`."""

    def __init__(self, trace: Trace, model: str = "", edition: str | None = None, edits: Sequence[str] = ()):
        self.trace = trace
        self.model = model or trace.model_name
        self.edition = edition
        self.edits = tuple(edits)  # of the network, in words
        self.input_shapes = trace.input_shapes
        self.params = trace.params
        self.trainable_params = trace.trainable_params
        self.buffer_elements = trace.buffer_elements
        self.rows = [row_of(call) for call in trace.calls if call.is_leaf or call.operations]
        self.macs = sum(row.macs for row in self.rows)
        self.flops = 2 * self.macs
        operations = [operation for call in trace.calls for operation in call.operations]
        self.conv_macs = sum(o.macs for o in operations if o.name in CONVOLUTIONS)
        self.activation_bytes = trace.input_bytes + sum(row.activation_bytes for row in self.rows)
        self.inference_bytes = trace.peak_bytes
        self.inference_peak_module = trace.peak_module
        self.read_bytes = sum(row.read_bytes for row in self.rows)
        self.written_bytes = sum(row.written_bytes for row in self.rows)
        self.notes = _notes(trace)
        self._calls = {call.path: call for call in trace.calls}

    @cached_property
    def saved_bytes_by_module(self) -> dict[str, int] | None:
        """Bytes that autograd saves for the backward pass, by path of the module.

        None for a module that does not run in training mode.
        """
        return self.trace.saved_bytes()

    @property
    def training_bytes(self) -> int | None:
        """Bytes of activations that autograd saves in one forward pass in training mode."""
        return None if self.saved_bytes_by_module is None else sum(self.saved_bytes_by_module.values())

    @property
    def intensity(self) -> float:
        """FLOPs for each byte that the operators read and write, for one image."""
        return self.flops / max(self.read_bytes + self.written_bytes, 1)

    @property
    def depth(self) -> int:
        """Convolutions and linear layers on the longest path."""
        return max((o.depth for call in self.trace.calls for o in call.operations), default=0)

    @property
    def max_receptive_field(self) -> int:
        """Side of the largest receptive field of a feature map.

        Outputs of global pooling and maps with a global field are excluded.
        """
        maps = [
            row
            for row in self.rows
            if len(row.output_shape) > 2 and min(row.output_shape[2:]) > 1 and not row.sees_whole_image
        ]
        return max((max(row.receptive_field, default=0) for row in maps), default=0)

    @property
    def size_bytes(self) -> dict[str, int]:
        """Bytes of the parameters and buffers, by precision."""
        elements = self.params + self.buffer_elements
        return {"fp32": 4 * elements, "bf16": 2 * elements, "int8": elements}

    @cached_property
    def principles(self) -> list[Finding]:
        return measure_principles(self.trace, self.stages)

    def receptive_field(self, path: str = "") -> tuple[Extent, ...]:
        """(start, size, stride) along each axis of the image, for the output of the module at `path`.

        "" is the whole network. Raises UsageError for a path that did not run, UserError for an output that
        does not depend on the image.
        """
        call = self._call_at(path)
        if not call.axes:
            name = path or self.model
            raise UserError(f"the output of {name} does not depend on the image: no receptive field")
        return tuple(axis.field.extent for axis in call.axes)

    def pixels(self, path: str, unit: Sequence[int]) -> tuple[tuple[int, int] | None, ...]:
        """First and last pixel of one unit's receptive field, along each axis.

        They lie outside the image in the padding. `unit`: the unit's indices in the last dimensions of the
        module's output, (row, column) in a map. Raises as `receptive_field` does.
        """
        self.receptive_field(path)
        call = self._calls[path]
        first = len(call.output_shapes[0]) - len(unit)
        return tuple(
            axis.interval(0 if axis.dim is None or axis.dim < first else unit[axis.dim - first])
            for axis in call.axes or ()
        )

    def module(self, path: str) -> Row:
        """A module with all its submodules, as one row. Raises UsageError for a path that did not run."""
        self._call_at(path)
        return self._merged_row(path, [row for row in self.rows if _is_inside(row.path, path)])

    def at_depth(self, depth: int | None) -> list[Row]:
        """The rows, those deeper than `depth` names merged; None: a row for every layer."""
        if depth is None:
            return self.rows
        return [self._merged_row(path, rows) for path, rows in _group_by_prefix(self.rows, depth).items()]

    @cached_property
    def tree(self) -> ModuleNode:
        """The network as a tree of modules."""
        return self._node("", self.rows)

    def _node(self, path: str, rows: Sequence[Row]) -> ModuleNode:
        depth = path.count(".") + 2 if path else 1
        groups = _group_by_prefix([row for row in rows if row.path != path], depth)
        # The operators of a module beside those of its submodules get a node of their own.
        module_rows = [ModuleNode(row, ()) for row in rows if row.path == path and groups]
        submodules = [self._node(name, inside) for name, inside in groups.items()]
        return ModuleNode(self._merged_row(path, rows), (*submodules, *module_rows))

    def _merged_row(self, path: str, rows: Sequence[Row]) -> Row:
        if len(rows) == 1 and rows[0].path == path:
            return rows[0]
        if path in self._calls:
            return merge_rows(self._calls[path], rows)
        # A list of modules has no forward of its own: its output is that of its last module.
        last = self._calls[rows[-1].path]
        call = ModuleCall(path, "ModuleList", 0, False, output_shapes=last.output_shapes, axes=last.axes)
        return merge_rows(call, rows)

    def _call_at(self, path: str) -> ModuleCall:
        call = self._calls.get(path)
        if call is None:
            raise unknown_name(f"layer of {self.model}", path, [name for name in self._calls if name])
        return call

    @property
    def stages(self) -> list[Row]:
        """The modules that the network's forward calls; if that is a single one, the modules in it."""
        depth = 1
        rows = self.at_depth(depth)
        while sum(row.layers > 1 for row in rows) == 1 and len(rows) <= 2 and depth < 5:
            depth += 1
            rows = self.at_depth(depth)
        return rows

    def document(self, depth: int | None = None) -> dict[str, Any]:
        """The JSON document of `convatlas show`."""
        shapes = self.input_shapes
        return {
            "model": self.model,
            "edition": self.edition,
            "edits": self.edits,
            "input": list(shapes[0][1:]) if len(shapes) == 1 else [list(shape) for shape in shapes],
            "params": self.params,
            "trainable_params": self.trainable_params,
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


def _is_inside(path: str, parent: str) -> bool:
    return not parent or path == parent or path.startswith(parent + ".")


def _group_by_prefix(rows: Sequence[Row], depth: int) -> dict[str, list[Row]]:
    """The rows by the first `depth` names of their paths."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        prefix = ".".join(row.path.split(".")[:depth])
        groups.setdefault(prefix, []).append(row)
    return groups


def _notes(trace: Trace) -> list[str]:
    """What a reader of the totals needs to know: unsupported operators, and modules that did not run."""
    notes = []
    place = next((call.output_place for call in trace.calls if not call.path), "")
    if place:
        notes.append(f"{trace.model_name} returns several values: {place} is taken as its output")
    unsupported: dict[str, list[str]] = {}  # paths, by operator
    for call in trace.calls:
        for operation in call.operations:
            if not operation.is_supported:
                unsupported.setdefault(operation.name, []).append(call.path or trace.model_name)
    for name, paths in unsupported.items():
        places = ", ".join(dict.fromkeys(paths[:3])) + (", ..." if len(set(paths)) > 3 else "")
        notes.append(
            f"unsupported operator: {name} ({len(paths)} x, in {places}): counted as no multiply-adds, "
            "with a receptive field that covers all its inputs"
        )
    uncalled: dict[str, int] = {}  # parameters, by first name of the path
    for path, params in trace.uncalled:
        name = path.split(".")[0]
        uncalled[name] = uncalled.get(name, 0) + params
    for name, params in uncalled.items():
        notes.append(f"not called in evaluation: {name} ({params:,} parameters, counted in the total)")
    return notes
