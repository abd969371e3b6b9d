"""A report as one HTML page: the network as a foldable tree, stages first, repeated blocks as one line."""

from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from convatlas.analysis.render.comparison import CHANGED, LEGEND, compare, report_names
from convatlas.analysis.render.tables import COLUMNS, have_common_layers, row_cells, title, totals
from convatlas.analysis.report import ReportData
from convatlas.analysis.rows import CONVENTION, ModuleNode, Row


@dataclass(frozen=True, slots=True)
class TreeNode:
    """A line of the page, and the lines that unfold from it."""

    name: str
    cells: tuple[str, ...]
    macs: float  # share of the network's, in percent
    params: float  # share of the network's, in percent
    children: "tuple[TreeNode, ...]"
    changed: bool = False  # whether the other network has no equal line; its name ends in `CHANGED`


def render_html(*reports: ReportData) -> str:
    """One page that needs no other file: it holds its styles and script, and fetches nothing."""
    names = [report.model for report in reports]
    tables = []
    if len(reports) == 2:
        names = list(report_names(*reports))
        tables = compare(*reports)
    trees = marked_trees(reports)
    page: str = _template("page.html").render(
        names=" against ".join(names),
        networks=[_network(report, tree) for report, tree in zip(reports, trees, strict=True)],
        tables=tables,
        legend=LEGEND,
        columns=COLUMNS,
        convention=CONVENTION,
    )
    return page


def render_fragment(report: ReportData) -> str:
    """A table whose stages unfold, for a notebook: without a script, its styles for itself alone."""
    fragment: str = _template("notebook.html").render(
        columns=COLUMNS, network=_network(report, tree_nodes(report))
    )
    return fragment


def _network(report: ReportData, stages: Sequence[TreeNode]) -> dict[str, Any]:
    largest_share = max([1.0, *(share for stage in stages for share in (stage.macs, stage.params))])
    return {
        "title": title(report),
        "nodes": stages,
        "scale": 100 / largest_share,
        "totals": totals(report),
        "notes": report.notes,
        "principles": report.principles,
    }


@cache
def _template(name: str) -> Any:
    from jinja2 import Environment, PackageLoader  # only a page needs it: 2 MB that `analyze` does not load

    loader = PackageLoader("convatlas.analysis.render", ".")
    return Environment(loader=loader, autoescape=True).get_template(name)


def marked_trees(reports: Sequence[ReportData]) -> list[tuple[TreeNode, ...]]:
    """The stages of each network. Lines that the other network does not have are marked, as in `marked_rows`:
    none where the networks have few names of layers in common."""
    trees = [tree_nodes(report) for report in reports]
    if not have_common_layers(reports):
        return trees
    lines = [{(node.name, node.cells) for node in _all_nodes(tree)} for tree in trees]
    return [_mark(tree, other) for tree, other in zip(trees, reversed(lines), strict=True)]


def _all_nodes(nodes: Sequence[TreeNode]) -> Iterator[TreeNode]:
    for node in nodes:
        yield node
        yield from _all_nodes(node.children)


def _mark(
    nodes: Sequence[TreeNode], other_lines: Container[tuple[str, tuple[str, ...]]]
) -> tuple[TreeNode, ...]:
    marked = []
    for node in nodes:
        children = _mark(node.children, other_lines)
        if (node.name, node.cells) in other_lines:
            marked.append(replace(node, children=children))
        else:
            marked.append(replace(node, name=f"{node.name} {CHANGED}", children=children, changed=True))
    return tuple(marked)


def tree_nodes(report: ReportData) -> tuple[TreeNode, ...]:
    """The stages of the network, each with its blocks."""
    root = report.tree
    while len(root.children) == 1 and root.children[0].children:  # a wrapper around the network
        root = root.children[0]
    return tuple(_sibling_nodes(root.children or (root,), root.row.path, report))


def _sibling_nodes(modules: Sequence[ModuleNode], parent: str, report: ReportData) -> list[TreeNode]:
    """A line for each module; equal modules in a row fold into one line."""
    nodes: list[TreeNode] = []
    start = 0
    while start < len(modules):
        end = start + 1
        while end < len(modules) and _signature(modules[end]) == _signature(modules[start]):
            end += 1
        repeated = modules[start:end]
        repeated_nodes = [_tree_node(module, parent, report) for module in repeated]
        if len(repeated) > 1:
            nodes.append(_repeated_node(repeated, repeated_nodes))
        else:
            nodes += repeated_nodes
        start = end
    return nodes


def _repeated_node(modules: Sequence[ModuleNode], nodes: Sequence[TreeNode]) -> TreeNode:
    return TreeNode(
        name=f"{nodes[0].name} to {nodes[-1].name}, x {len(nodes)}",
        cells=row_cells(_sum_rows([module.row for module in modules])),
        macs=sum(node.macs for node in nodes),
        params=sum(node.params for node in nodes),
        children=tuple(nodes),
    )


def _tree_node(module: ModuleNode, parent: str, report: ReportData) -> TreeNode:
    row = module.row
    if row.path == parent:
        name = "outside its submodules"
    else:
        name = row.path.removeprefix(f"{parent}.") if parent else row.path
    return TreeNode(
        name=name,
        cells=row_cells(row),
        macs=100 * row.macs / max(report.macs, 1),
        params=100 * row.params / max(report.params, 1),
        children=tuple(_sibling_nodes(module.children, row.path, report)) if module.children else (),
    )


def _signature(module: ModuleNode) -> Any:
    """Equal for repetitions of a block: everything except its path and its receptive field."""
    row = module.row
    children = [_signature(child) for child in module.children]
    return row.op, row.output_shape, row.params, row.macs, children


def _sum_rows(rows: Sequence[Row]) -> Row:
    """Repeated blocks in a row: their costs added up, the last one's output."""
    names = ("params", "macs", "flops", "activation_bytes", "read_bytes", "written_bytes", "layers")
    return rows[-1].replace(**{name: sum(getattr(row, name) for row in rows) for name in names})
