"""Tables of a report: markdown, and the cells that the terminal shows."""

from collections.abc import Sequence

from convatlas.analysis.report import ReportData
from convatlas.analysis.rows import CONVENTION, Row, sides
from convatlas.formatting import format_si

HEADS = ("layer", "op", "output", "parameters", "macs", "FLOPs", "field", "stride", "activations", "FLOPs/byte")
TEXT = ("layer", "op")  # the others are numbers


def cells(row: Row) -> tuple[str, ...]:
    """One line; "all" for what sees the whole image through a gate."""
    return (
        row.path or "(itself)",
        row.op if row.layers == 1 else f"{row.op}, {row.layers} layers",
        "x".join(map(str, row.output_shape[1:])) or "-",
        f"{row.params:,}" if row.params else "-",
        format_si(row.macs),
        format_si(row.flops),
        "all" if row.sees_whole_image else sides(row.receptive_field) or "-",
        sides(row.stride) or "-",
        format_si(row.activation_bytes, "B"),
        f"{row.intensity:.1f}" if row.macs else "-",
    )


def totals(report: ReportData) -> list[tuple[str, str]]:
    """What stands under every table: name, reading."""
    kept = report.training_bytes
    weights = ", ".join(f"{name} {format_si(size, 'B')}" for name, size in report.size_bytes.items())
    fixed = "" if report.params == report.trainable else f", {report.trainable:,} of them trainable"
    return [
        ("parameters", f"{report.params:,}{fixed}"),
        ("multiply-adds", f"{report.macs:,}; convolutions alone {report.conv_macs:,}"),
        ("FLOPs", f"{report.flops:,}"),
        ("weights", weights),
        ("activations", f"{format_si(report.activation_bytes, 'B')} made by one forward"),
        ("inference", f"{format_si(report.inference_bytes, 'B')} alive at most, in {report.inference_peak_at or 'the network itself'}"),
        (
            "training",
            "not known: it does not run in training mode" if kept is None else f"{format_si(kept, 'B')} kept for the backward pass",
        ),
        (
            "traffic",
            f"{format_si(report.read_bytes, 'B')} read, {format_si(report.written_bytes, 'B')} written: {report.intensity:.1f} FLOPs a byte",
        ),
    ]


def title(report: ReportData) -> str:
    edition = f", edition {report.edition}" if report.edition else ""
    shapes = [shape[1:] if len(report.inputs) == 1 else shape for shape in report.inputs]
    return f"{report.model}{edition}, input {' and '.join('x'.join(map(str, shape)) for shape in shapes)}"


def grid(columns: Sequence[str], rows: Sequence[Sequence[str]], text: Sequence[str] = TEXT) -> str:
    """A markdown table; numbers to the right."""
    lines = [columns, ["---" if column in text else "---:" for column in columns], *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


def rows(report: ReportData, depth: int | None) -> list[Row]:
    """As deep as asked; by stage where nothing is asked."""
    return report.stages if depth is None else report.at_depth(depth)


def markdown(reports: Sequence[ReportData], depth: int | None = None) -> str:
    """One network, or two with what sets them apart before."""
    text = ""
    if len(reports) == 2:
        from convatlas.analysis.render.comparison import compare, heads

        tables = [grid(table.columns, table.rows, table.text) for table in compare(*reports)]
        text = f"# {' against '.join(heads(*reports))}\n\n" + "\n".join(tables) + "\n"
    return text + "\n".join(_markdown(report, rows(report, depth)) for report in reports)


def _markdown(report: ReportData, chosen: Sequence[Row]) -> str:
    parts = [f"# {title(report)}", grid(HEADS, [cells(row) for row in chosen])]
    parts.append("\n".join(f"- {name}: {text}" for name, text in totals(report)) + f"\n\n{CONVENTION}")
    if report.notes:
        parts.append("\n".join(f"- {note}" for note in report.notes))
    parts.append("## Design principles (arXiv:1512.00567, sec. 2)\n\nMeasurements; flags are advice.")
    lines = []
    for finding in report.principles:
        lines += [f"- **{finding.principle}**: {finding.reading}", *(f"  - flag: {flag}" for flag in finding.flags)]
    parts.append("\n".join(lines))
    return "\n\n".join(part.rstrip("\n") for part in parts) + "\n"
