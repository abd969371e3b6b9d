"""Two networks side by side: their totals, and where each spends them, by the stride of its maps."""

from typing import NamedTuple

from convatlas.analysis.report import ReportData
from convatlas.analysis.rows import Row, sides
from convatlas.formatting import format_si


class Table(NamedTuple):
    columns: tuple[str, ...]
    text: tuple[str, ...]  # the columns that are no numbers
    rows: list[tuple[str, ...]]


def compare(a: ReportData, b: ReportData) -> list[Table]:
    return [totals(a, b), by_stride(a, b)]


def totals(a: ReportData, b: ReportData) -> Table:
    names = {
        "parameters": "params",
        "multiply-adds": "macs",
        "of convolutions": "conv_macs",
        "FLOPs": "flops",
        "activations, bytes": "activation_bytes",
        "alive at most, bytes": "inference_bytes",
        "kept for training, bytes": "training_bytes",
        "read, bytes": "read_bytes",
        "written, bytes": "written_bytes",
        "FLOPs a byte": "intensity",
        "longest path, layers": "depth",
        "receptive field, pixels": "field",
    }
    rows: list[tuple[str, ...]] = []
    for name, attribute in names.items():
        one, other = getattr(a, attribute), getattr(b, attribute)
        ratio = f"{other / one:.2f}" if one and other is not None else "-"
        rows.append((name, _number(one), _number(other), ratio))
    first, second = heads(a, b)
    return Table(("", first, second, "ratio"), ("",), rows)


def by_stride(a: ReportData, b: ReportData) -> Table:
    """Layers with weights by the stride of their output; those without a map last."""
    halves = [_by_stride(report) for report in (a, b)]
    rows = []
    for stride in sorted(halves[0].keys() | halves[1].keys()):
        label = f"stride {stride:g}" if stride < NO_MAP else "no map"
        rows.append((label, *(cell for half, report in zip(halves, (a, b), strict=True) for cell in _half(half.get(stride, []), report))))
    columns = [column for name in heads(a, b) for column in (f"{name}: map", "layers", "parameters", "macs", "share")]
    return Table(("", *columns), ("",), rows)


NO_MAP = float("inf")


def _by_stride(report: ReportData) -> dict[float, list[Row]]:
    groups: dict[float, list[Row]] = {}
    for row in report.rows:
        if row.macs:
            grid = len(row.output_shape) > 2 and min(row.output_shape[2:]) > 1 and bool(row.stride)
            groups.setdefault(max(row.stride) if grid else NO_MAP, []).append(row)
    return groups


def _half(rows: list[Row], report: ReportData) -> tuple[str, ...]:
    if not rows:
        return ("-",) * 5
    macs = sum(row.macs for row in rows)
    share = f"{100 * macs / report.macs:.1f} %"
    largest = max((row.output_shape[2:] for row in rows), default=[])
    return (sides(largest) or "-", str(len(rows)), format_si(sum(row.params for row in rows)), format_si(macs), share)


def heads(a: ReportData, b: ReportData) -> tuple[str, str]:
    if a.model != b.model:
        return a.model, b.model
    if a.edition != b.edition:
        return f"{a.model}, {a.edition}", f"{b.model}, {b.edition}"
    return f"{a.model} (1)", f"{b.model} (2)"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:,.1f}"
