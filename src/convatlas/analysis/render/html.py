"""A report as one page: the network as a tree that folds, stages first, repeated blocks once with their number."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, Template

from convatlas.analysis.render.comparison import compare, heads
from convatlas.analysis.render.tables import HEADS, cells, title, totals
from convatlas.analysis.report import ReportData
from convatlas.analysis.rows import CONVENTION, ModuleNode, Row


@dataclass(frozen=True, slots=True)
class TreeNode:
    """A line of the page, and what unfolds from it."""

    name: str
    cells: tuple[str, ...]
    macs: float  # share of the network's, in percent
    params: float
    branches: "tuple[TreeNode, ...]"


def html(*reports: ReportData) -> str:
    """One page that needs nothing beside it: styles and script stand in it, and nothing is fetched."""
    networks = [
        {
            "title": title(report),
            "branches": (stages := tree_nodes(report)),
            "scale": 100 / max([1.0, *(share for branch in stages for share in (branch.macs, branch.params))]),
            "totals": totals(report),
            "notes": report.notes,
            "principles": report.principles,
        }
        for report in reports
    ]
    names = " against ".join(heads(*reports) if len(reports) == 2 else [report.model for report in reports])
    tables = compare(*reports) if len(reports) == 2 else []
    return _template().render(names=names, networks=networks, tables=tables, columns=HEADS, convention=CONVENTION)


@cache
def _template() -> Template:
    return Environment(loader=PackageLoader("convatlas.analysis.render", "."), autoescape=True).get_template("page.html")


def tree_nodes(report: ReportData) -> tuple[TreeNode, ...]:
    """The stages of the network, each with its blocks."""
    top = report.tree
    while len(top.parts) == 1 and top.parts[0].parts:  # a wrapper around the network
        top = top.parts[0]
    return tuple(_branches(top.parts or (top,), top.row.path, report))


def _branches(parts: Sequence[ModuleNode], parent: str, report: ReportData) -> list[TreeNode]:
    found: list[TreeNode] = []
    start = 0
    while start < len(parts):
        end = start + 1
        while end < len(parts) and _form(parts[end]) == _form(parts[start]):
            end += 1
        same = [_branch(part, parent, report) for part in parts[start:end]]
        if len(same) > 1:
            last = same[-1]
            name = f"{same[0].name} to {last.name}, x {len(same)}"
            macs, params = sum(b.macs for b in same), sum(b.params for b in same)
            together = [part.row for part in parts[start:end]]
            found.append(TreeNode(name, cells(_sum(together)), macs, params, tuple(same)))
        else:
            found += same
        start = end
    return found


def _branch(part: ModuleNode, parent: str, report: ReportData) -> TreeNode:
    row = part.row
    name = "beside its parts" if row.path == parent else row.path.removeprefix(f"{parent}.") if parent else row.path
    return TreeNode(
        name,
        cells(row),
        100 * row.macs / max(report.macs, 1),
        100 * row.params / max(report.params, 1),
        tuple(_branches(part.parts, row.path, report)) if part.parts else (),
    )


def _form(part: ModuleNode) -> Any:
    """What makes two blocks repetitions of each other: all but where they stand and how far they see."""
    row = part.row
    return row.op, row.output_shape, row.params, row.macs, [_form(inner) for inner in part.parts]


def _sum(rows: Sequence[Row]) -> Row:
    """Repeated blocks in a row: costs added up, the last one's output."""
    last = rows[-1]
    counted = ("params", "macs", "flops", "activation_bytes", "read_bytes", "written_bytes", "layers")
    return last.replace(**{name: sum(getattr(row, name) for row in rows) for name in counted})
