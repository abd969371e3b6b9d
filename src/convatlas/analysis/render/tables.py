"""Tables of a report: Markdown, and the cells that the terminal shows."""

from collections.abc import Sequence

from convatlas.analysis.render.comparison import compare, report_names
from convatlas.analysis.report import ReportData
from convatlas.analysis.rows import CONVENTION, Row, format_size
from convatlas.formatting import format_si
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
    """Name, edition and input of the network."""
    edition = f", edition {report.edition}" if report.edition else ""
    shapes = report.input_shapes
    if len(shapes) == 1:
        shapes = (shapes[0][1:],)
    inputs = " and ".join("x".join(map(str, shape)) for shape in shapes)
    return f"{report.model}{edition}, input {inputs}"


def markdown_table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], text_columns: Sequence[str] = TEXT_COLUMNS
) -> str:
    """A Markdown table with numbers aligned to the right."""
    separator = ["---" if column in text_columns else "---:" for column in columns]
    texts = [[markdown_text(cell) for cell in line] for line in (columns, *rows)]
    lines = [texts[0], separator, *texts[1:]]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def select_rows(report: ReportData, depth: int | None) -> list[Row]:
    """The rows merged at `depth` names; by stage where it is None."""
    return report.stages if depth is None else report.at_depth(depth)


def render_markdown(reports: Sequence[ReportData], depth: int | None = None) -> str:
    """One network; or two, after a comparison of both."""
    text = ""
    if len(reports) == 2:
        tables = [
            markdown_table(table.columns, table.rows, table.text_columns) for table in compare(*reports)
        ]
        text = f"# {markdown_text(' against '.join(report_names(*reports)))}\n\n" + "\n".join(tables) + "\n"
    return text + "\n".join(_report_markdown(report, select_rows(report, depth)) for report in reports)


def _report_markdown(report: ReportData, rows: Sequence[Row]) -> str:
    totals_list = "\n".join(f"- {name}: {markdown_text(text)}" for name, text in totals(report))
    sections = [
        f"# {markdown_text(title(report))}",
        markdown_table(COLUMNS, [row_cells(row) for row in rows]),
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
