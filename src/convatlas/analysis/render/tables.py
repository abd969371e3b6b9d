"""Tables of a report: Markdown, and the cells that the terminal shows."""

from collections.abc import Sequence

from convatlas.analysis.render.comparison import CHANGED, LEGEND, compare, report_names
from convatlas.analysis.report import ReportData
from convatlas.analysis.rows import CONVENTION, Row, format_size
from convatlas.errors import printable
from convatlas.formatting import describe_edits, format_si
from convatlas.markdown import markdown_text

COLUMNS = (
    *("layer", "op", "output", "parameters", "macs", "FLOPs"),
    *("field", "stride", "activations", "FLOPs/byte"),
)
TEXT_COLUMNS = ("layer", "op")  # the others hold numbers


def row_cells(row: Row) -> tuple[str, ...]:
    """The cells of one row; the field is "all" where a gate makes it the whole image."""
    return (
        row.path or "(itself)",
        row.op if row.layers == 1 else f"{row.op}, {row.layers} layers",
        "x".join(map(str, row.output_shape[1:])) or "-",
        f"{row.params:,}" if row.params else "-",
        format_si(row.macs),
        format_si(row.flops),
        "all" if row.sees_whole_image else format_size(row.receptive_field) or "-",
        format_size(row.stride) or "-",
        format_si(row.activation_bytes, "B"),
        f"{row.intensity:.1f}" if row.macs else "-",
    )


def totals(report: ReportData) -> list[tuple[str, str]]:
    """The totals under every table: name, text."""
    weights = ", ".join(f"{name} {format_si(size, 'B')}" for name, size in report.size_bytes.items())
    trainable = ""
    if report.params != report.trainable_params:
        trainable = f", {report.trainable_params:,} of them trainable"
    training = "unknown: the network does not run in training mode"
    if report.training_bytes is not None:
        training = f"{format_si(report.training_bytes, 'B')} saved for the backward pass"
    peak_module = report.inference_peak_module or "the network itself"
    read, written = format_si(report.read_bytes, "B"), format_si(report.written_bytes, "B")
    return [
        ("parameters", f"{report.params:,}{trainable}"),
        ("multiply-adds", f"{report.macs:,}; convolutions alone {report.conv_macs:,}"),
        ("FLOPs", f"{report.flops:,}"),
        ("weights", weights),
        ("activations", f"{format_si(report.activation_bytes, 'B')} made by one forward pass"),
        ("inference", f"{format_si(report.inference_bytes, 'B')} at the peak, in {peak_module}"),
        ("training", training),
        ("traffic", f"{read} read, {written} written: {report.intensity:.1f} FLOPs per byte"),
    ]


def title(report: ReportData) -> str:
    """Name, edition, edits and input of the network."""
    edition = f", edition {report.edition}" if report.edition else ""
    shapes = report.input_shapes
    if len(shapes) == 1:
        shapes = (shapes[0][1:],)
    inputs = " and ".join("x".join(map(str, shape)) for shape in shapes)
    return f"{report.model}{edition}{describe_edits(report.edits)}, input {inputs}"


def markdown_table(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    text_columns: Sequence[str] = TEXT_COLUMNS,
    bold: Sequence[bool] = (),
) -> str:
    """A Markdown table with numbers aligned to the right. `bold`: of each row, whether it is; by default
    none."""
    separator = ["---" if column in text_columns else "---:" for column in columns]
    texts = [[markdown_text(cell) for cell in line] for line in (columns, *rows)]
    for cells, is_bold in zip(texts[1:], bold, strict=bool(bold)):
        if is_bold:
            cells[:] = [f"**{cell}**" if cell else cell for cell in cells]
    lines = [texts[0], separator, *texts[1:]]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def text_table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], text_columns: Sequence[str] = TEXT_COLUMNS
) -> str:
    """A table of plain text with numbers aligned to the right."""
    lines = []
    printed_rows = [[printable(cell) for cell in row] for row in (columns, *rows)]
    widths = [max(map(len, cells)) for cells in zip(*printed_rows, strict=True)]
    for line in printed_rows:
        cells = [
            cell.ljust(width) if column in text_columns else cell.rjust(width)
            for column, cell, width in zip(columns, line, widths, strict=True)
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def render_text(report: ReportData) -> str:
    """A network by stage, its totals and notes, as plain text."""
    facts = [*totals(report), *(("note", note) for note in report.notes)]
    return "\n".join(
        [
            title(report),
            text_table(COLUMNS, [row_cells(row) for row in report.stages]),
            "",
            *(f"{name:<14}{printable(text)}" for name, text in facts),
        ]
    )


def select_rows(report: ReportData, depth: int | None) -> list[Row]:
    """The rows merged at `depth` names; by stage where it is None."""
    return report.stages if depth is None else report.at_depth(depth)


def render_markdown(reports: Sequence[ReportData], depth: int | None = None) -> str:
    """One network; or two, after a comparison of both."""
    text = ""
    if len(reports) == 2:
        tables = [
            markdown_table(table.columns, table.rows, table.text_columns, table.changed)
            for table in compare(*reports)
        ]
        text = (
            f"# {markdown_text(' against '.join(report_names(*reports)))}\n\n"
            + "\n".join([*tables, f"\\{LEGEND}\n"])
            + "\n"
        )
    rows_by_report = marked_rows(reports, depth)
    return text + "\n".join(
        _report_markdown(report, *rows) for report, rows in zip(reports, rows_by_report, strict=True)
    )


def marked_rows(
    reports: Sequence[ReportData], depth: int | None = None
) -> list[tuple[list[tuple[str, ...]], list[bool]]]:
    """The cells of each report's rows, and of each row whether the other report has none that is equal.

    Such rows end in `CHANGED`. None is marked where the networks have few names of layers in common.
    """
    tables = [[row_cells(row) for row in select_rows(report, depth)] for report in reports]
    are_alike = have_common_layers(reports, depth)
    result = []
    for table, other in zip(tables, reversed(tables), strict=True):
        changed = [are_alike and cells not in other for cells in table]
        rows = [
            (f"{cells[0]} {CHANGED}", *cells[1:]) if is_changed else cells
            for cells, is_changed in zip(table, changed, strict=True)
        ]
        result.append((rows, changed))
    return result


def have_common_layers(reports: Sequence[ReportData], depth: int | None = None) -> bool:
    """Whether there are two reports, and half of the names of their rows are in both."""
    names = [{row.path for row in select_rows(report, depth)} for report in reports]
    return len(names) == 2 and 2 * len(names[0] & names[1]) >= max(map(len, names))


def _report_markdown(report: ReportData, rows: Sequence[Sequence[str]], changed: Sequence[bool]) -> str:
    totals_list = "\n".join(f"- {name}: {markdown_text(text)}" for name, text in totals(report))
    sections = [
        f"# {markdown_text(title(report))}",
        markdown_table(COLUMNS, rows, bold=changed),
        f"{totals_list}\n\n{CONVENTION}",
    ]
    if report.notes:
        sections.append("\n".join(f"- {markdown_text(note)}" for note in report.notes))
    sections.append("## Design principles (arXiv:1512.00567, sec. 2)\n\nMeasurements; flags are advice.")
    findings = []
    for finding in report.principles:
        findings.append(f"- **{finding.principle}**: {finding.reading}")
        findings += [f"  - flag: {flag}" for flag in finding.flags]
    sections.append("\n".join(findings))
    return "\n\n".join(section.rstrip("\n") for section in sections) + "\n"
