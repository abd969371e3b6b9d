"""Two networks side by side: their totals, and the cost of each by the stride of its feature maps."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from convatlas.analysis.report import ReportData
from convatlas.analysis.rows import Row, format_size
from convatlas.formatting import format_si

CHANGED = "*"  # marks a row where there is no colour
LEGEND = f"{CHANGED} the networks differ; difference: the second minus the first"
NO_MAP = math.inf  # the stride of layers without a feature map: they come last


class Table(NamedTuple):
    columns: tuple[str, ...]
    text_columns: tuple[str, ...]  # the others hold numbers
    rows: list[tuple[str, ...]]
    changed: list[bool]  # rows in which the networks differ; their first cell ends in `CHANGED`


def compare(a: ReportData, b: ReportData) -> list[Table]:
    return [totals_table(a, b), stride_table(a, b)]


def totals_table(a: ReportData, b: ReportData) -> Table:
    attributes = {
        "parameters": "params",
        "multiply-adds": "macs",
        "of convolutions": "conv_macs",
        "FLOPs": "flops",
        "activations, bytes": "activation_bytes",
        "inference peak, bytes": "inference_bytes",
        "saved for backward, bytes": "training_bytes",
        "read, bytes": "read_bytes",
        "written, bytes": "written_bytes",
        "FLOPs per byte": "intensity",
        "longest path, layers": "depth",
        "receptive field, pixels": "max_receptive_field",
    }
    rows: list[tuple[str, ...]] = []
    changed = []
    for name, attribute in attributes.items():
        value_a = getattr(a, attribute)
        value_b = getattr(b, attribute)
        ratio = f"{value_b / value_a:.2f}" if value_a and value_b is not None else "-"
        changed.append(value_a != value_b)
        label = f"{name} {CHANGED}" if changed[-1] else name
        cells = (
            _format_number(value_a),
            _format_number(value_b),
            _format_difference(value_a, value_b),
            ratio,
        )
        rows.append((label, *cells))
    return Table(("", *report_names(a, b), "difference", "ratio"), ("",), rows, changed)


def stride_table(a: ReportData, b: ReportData) -> Table:
    """The layers with weights by the stride of their output; those without a feature map last."""
    layers_a = _layers_by_stride(a)
    layers_b = _layers_by_stride(b)
    rows = []
    changed = []
    for stride in sorted(layers_a.keys() | layers_b.keys()):
        label = f"stride {stride:g}" if stride < NO_MAP else "no map"
        cells_a = _cost_cells(layers_a.get(stride, []), a)
        cells_b = _cost_cells(layers_b.get(stride, []), b)
        difference = _macs(layers_b.get(stride, [])) - _macs(layers_a.get(stride, []))
        changed.append(cells_a[:-1] != cells_b[:-1] or difference != 0)  # shares differ with any other row
        label = f"{label} {CHANGED}" if changed[-1] else label
        rows.append((label, *cells_a, *cells_b, _signed_si(difference)))
    columns = [
        column
        for name in report_names(a, b)
        for column in (f"{name}: map", "layers", "parameters", "macs", "share")
    ]
    return Table(("", *columns, "macs: difference"), ("",), rows, changed)


def report_names(a: ReportData, b: ReportData) -> tuple[str, str]:
    """A different name for each of the two networks."""
    if a.model != b.model:
        return a.model, b.model
    if a.edition != b.edition:
        return f"{a.model}, {a.edition}", f"{b.model}, {b.edition}"
    if bool(a.edits) != bool(b.edits):
        return tuple(f"{report.model}{', edited' * bool(report.edits)}" for report in (a, b))  # type: ignore[return-value]
    return f"{a.model} (1)", f"{b.model} (2)"


def _layers_by_stride(report: ReportData) -> dict[float, list[Row]]:
    groups: dict[float, list[Row]] = {}
    for row in report.rows:
        if row.macs:
            has_map = len(row.output_shape) > 2 and min(row.output_shape[2:]) > 1 and bool(row.stride)
            groups.setdefault(max(row.stride) if has_map else NO_MAP, []).append(row)
    return groups


def _cost_cells(rows: Sequence[Row], report: ReportData) -> tuple[str, ...]:
    """Map size, layers, parameters, multiply-adds and their share of the network's."""
    if not rows:
        return ("-",) * 5
    macs = _macs(rows)
    params = sum(row.params for row in rows)
    largest_map = max((row.output_shape[2:] for row in rows), default=[])
    share = f"{100 * macs / report.macs:.1f} %"
    return (format_size(largest_map) or "-", str(len(rows)), format_si(params), format_si(macs), share)


def _format_number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.1f}"


def _format_difference(a: float | None, b: float | None) -> str:
    if a is None or b is None:
        return "-"
    difference = b - a
    if not difference:
        return "0"
    return f"{difference:+,}" if isinstance(difference, int) else f"{difference:+,.1f}"


def _signed_si(difference: int) -> str:
    sign = "+" if difference > 0 else "-" if difference < 0 else ""
    return sign + format_si(abs(difference)) if difference else "0"


def _macs(rows: Sequence[Row]) -> int:
    return sum(row.macs for row in rows)
