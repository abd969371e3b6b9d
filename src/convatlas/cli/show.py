"""`show`: a network's shapes, cost, memory and receptive field."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional

from convatlas.cli.arguments import Edits, Json, arg
from convatlas.cli.output import paragraph, print_json, print_table, write
from convatlas.errors import UsageError

if TYPE_CHECKING:
    from convatlas.analysis import Report
    from convatlas.models import Network


@dataclass
class Show:
    """Analyse a network, by stage: shapes, cost, memory, receptive field and design principles."""

    model: Annotated[Positional[str], arg(metavar="MODEL", help="A network's name.")]
    edition: Annotated[str, arg(help="The paper's network, or a named edition.")] = "paper"
    edit: Edits = ()
    input: Annotated[
        str, arg(metavar="CxHxW", help="Channels, height and width of one image; default the paper's.")
    ] = ""
    depth: Annotated[
        int | None,
        arg(metavar="N", help="Names deep: 1 for its parts, 9 for every layer; default by stage."),
    ] = None
    against: Annotated[str, arg(metavar="MODEL", help="A second network beside it, or NAME:EDITION.")] = ""
    json: Json = False
    markdown: Annotated[bool, arg(help="Print the tables as Markdown.")] = False
    html: Annotated[
        Path | None, arg(metavar="FILE", help="Write one page that unfolds, and works offline.")
    ] = None
    png: Annotated[
        Path | None,
        arg(metavar="FILE", help="Draw cost and receptive field by depth; takes some seconds."),
    ] = None
    svg: Annotated[
        Path | None, arg(metavar="FILE", help="Draw the network, and one module of each kind with branches.")
    ] = None
    module: Annotated[
        str, arg(metavar="PATH", help="With --svg: a part of the network, such as conv4_x.")
    ] = ""

    def __call__(self) -> None:
        formats = [name for name in ("json", "markdown", "html", "png", "svg") if getattr(self, name)]
        if len(formats) > 1:
            raise UsageError(f"--{formats[0]} and --{formats[1]} exclude each other: choose one")
        if self.depth is not None and self.depth < 1:
            raise UsageError(f"--depth should be 1 or more, not {self.depth}")
        if self.svg and self.against:
            raise UsageError("--svg draws one network: leave out --against")
        if self.module and not self.svg:
            raise UsageError("--module names the part that --svg draws: add --svg FILE")
        networks = self._networks()
        reports = [report for report, _ in networks]
        if self.png:
            from convatlas.analysis.render import plots

            print("convatlas: drawing, with a few passes forward and backward", file=sys.stderr)
            fields = [plots.effective_fields(model, report) for report, model in networks]
            write(self.png, plots.draw_report(reports, fields))
        elif self.svg:
            from convatlas.analysis.render.svg import render_svg

            write(self.svg, render_svg(reports[0], self.module))
        elif self.html:
            from convatlas.analysis.render.html import render_html

            write(self.html, render_html(*reports).encode())
        elif self.json:
            document = reports[0].document(self.depth)
            print_json(document | {"against": reports[1].document(self.depth)} if self.against else document)
        elif self.markdown:
            from convatlas.analysis.render.tables import render_markdown

            print(render_markdown(reports, self.depth), end="")
        else:
            self._print(reports)

    def _networks(self) -> list[tuple["Report", "Network"]]:
        import torch

        from convatlas import analysis, models
        from convatlas.runtime.trust import trust_factory

        shape = _parse_shape(self.input) if self.input else None
        torch.manual_seed(0)  # the same drawing each time
        names = [(self.model, self.edition, [models.edits.parse_edit(text) for text in self.edit])]
        if self.against:
            name, _, edition = self.against.partition(":")
            if models.is_import_path(self.against) and name not in models.list_models():
                name, edition = self.against, ""
            names.append((name, edition or "paper", []))
        networks = []
        for name, edition, edits in names:
            trust_factory(name)
            entry = models.get_entry(name, edition)
            channels, height, width = shape or entry.input
            arguments: dict[str, Any] = {"in_chans": channels, "image_size": (height, width)} if shape else {}
            with torch.device("cpu" if self.png else "meta"):  # a gradient needs weights
                model = models.create_model(name, edition, edits=edits, **arguments)
            networks.append((analysis.analyze(model, (channels, height, width)), model))
        return networks

    def _print(self, reports: Sequence["Report"]) -> None:
        from convatlas.analysis.render import tables
        from convatlas.analysis.render.comparison import LEGEND, compare
        from convatlas.analysis.rows import CONVENTION

        for table in compare(*reports) if self.against else ():
            numbers = tuple(column for column in table.columns if column not in table.text_columns)
            print_table(table.columns, table.rows, right=numbers, bold=table.changed)
            print()
        if self.against:
            print(f"{LEGEND}\n")
        rows_by_report = tables.marked_rows(reports, self.depth)
        for report, (rows, changed) in zip(reports, rows_by_report, strict=True):
            print(tables.title(report))
            numbers = tuple(column for column in tables.COLUMNS if column not in tables.TEXT_COLUMNS)
            print_table(tables.COLUMNS, rows, right=numbers, bold=changed)
            print()
            for name, text in tables.totals(report):
                paragraph(f"{name:<14}{text}", 14)
            for note in report.notes:
                paragraph(f"{'note':<14}{note}", 14)
            print("\ndesign principles (arXiv:1512.00567, sec. 2), measured; flags are advice")
            for finding in report.principles:
                paragraph(f"  {finding.principle}: {finding.reading}", 4)
                for flag in finding.flags:
                    paragraph(f"    flag: {flag}", 10)
            print()
        paragraph(CONVENTION, 0)


def _parse_shape(text: str) -> tuple[int, int, int]:
    """`CxHxW`. Raises UsageError for anything else."""
    sides = text.lower().split("x")
    if len(sides) != 3 or not all(
        side.isascii() and side.isdigit() and 0 < int(side) < 1 << 16 for side in sides
    ):
        raise UsageError(f"--input is {text!r}: expected channels, height and width, as 3x224x224")
    channels, height, width = map(int, sides)
    return channels, height, width
