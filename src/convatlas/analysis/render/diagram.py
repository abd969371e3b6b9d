"""A network as panels of boxes: the network with its units folded, and one unit of each kind.

A *unit* is a module with branches, such as an Inception module or a residual block. The network's panel shows
it as one box, and its branches are drawn once for all units of its kind, in a panel of their own. The
submodules of a module that runs them one after another take its place.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from convatlas.analysis.render.boxes import Box, BoxGraph, Edge, box_graph, common_path
from convatlas.analysis.trace.trace import Trace
from convatlas.errors import UserError

MAX_UNIT_BOXES = 40  # of a panel; in a larger unit every submodule is a unit
MIN_REPEATS = 3  # equal runs of layers; of units 2
MAX_PERIOD = 4  # layers of a run
MAX_NAMED = 2  # further units of a kind that are named
MAX_GRAPH_BOXES = 24  # of a network that is no chain; of a larger one every submodule is a unit
OUTPUTS = 1 << 40  # index of the first box for an output


@dataclass(frozen=True, slots=True)
class Repeat:
    """Items of a chain that are drawn once: position of the first, number of items, how often they run."""

    first: int
    length: int
    count: int


@dataclass(frozen=True, slots=True)
class Panel:
    """Boxes in the order in which they run, and edges between their indices. `repeats` only where the boxes
    are a chain."""

    title: str
    note: str
    boxes: tuple[Box, ...]
    edges: tuple[Edge, ...]
    is_chain: bool
    repeats: tuple[Repeat, ...] = ()


def diagram(trace: Trace, path: str = "") -> list[Panel]:
    """The panel of a network, or of its module at `path`, then one of each kind of unit in it.

    Raises UserError for a module that does not lead from the input to the output.
    """
    return _Drawing(trace).panels(path)


class _Drawing:
    def __init__(self, trace: Trace):
        self.graph: BoxGraph = box_graph(trace)
        self.num_calls = {call.path: call.num_calls for call in trace.calls}
        self.sources: dict[int, list[int]] = {}
        self.readers: dict[int, list[int]] = {}
        for source, target in self.graph.edges:
            self.sources.setdefault(target, []).append(source)
            self.readers.setdefault(source, []).append(target)
        self.units: dict[Any, list[str]] = {}  # paths, by kind

    def panels(self, path: str) -> list[Panel]:
        panels = [self._panel(path, is_unit=bool(path) and not self._is_serial(path))]
        kinds: list[Any] = []
        while len(kinds) < len(self.units):  # drawing a unit may meet units of further kinds
            kind = list(self.units)[len(kinds)]
            kinds.append(kind)
            panels.append(self._panel(self.units[kind][0], is_unit=True))
        return [
            panels[0],
            *(self._titled(panel, kind) for panel, kind in zip(panels[1:], kinds, strict=True)),
        ]

    def _titled(self, panel: Panel, kind: Any) -> Panel:
        first, *others = dict.fromkeys(self.units[kind])
        note = f"and {len(others)} modules like it" if len(others) > MAX_NAMED else " and ".join(others)
        note = f"as {note}" if 0 < len(others) <= MAX_NAMED else note
        return replace(panel, title=f"{self._letter(kind)}: {first}", note=note)

    def _letter(self, kind: Any) -> str:
        number = list(self.units).index(kind)
        return chr(ord("A") + number) if number < 26 else f"A{number - 25}"

    def _panel(self, path: str, is_unit: bool) -> Panel:
        inside = self._inside(path)
        if not inside:
            raise UserError(
                f"{path} does not lead from the input to the output: choose another module to draw"
            )
        if is_unit and len(inside) <= MAX_UNIT_BOXES:
            items = [[box] for box in inside]
        else:
            is_large = len(inside) > MAX_GRAPH_BOXES and not self._is_serial(path)
            items = list(self._items(path, fold_all=is_unit or is_large))
            if self._is_cyclic(items):
                items = [[box] for box in inside]
        boxes = [group[0] if len(group) == 1 else self._unit_box(group, path) for group in items]
        home = {box.index: item.index for item, group in zip(boxes, items, strict=True) for box in group}
        edges = dict.fromkeys(
            (home[source], home[target])
            for source, target in self.graph.edges
            if source in home and target in home and home[source] != home[target]
        )
        inputs, input_edges = self._inputs(home)
        outputs, output_edges = self._outputs(home)
        boxes = [*inputs, *boxes, *outputs]
        all_edges = (*input_edges, *edges, *output_edges)
        indices = [box.index for box in boxes]
        if all_edges != tuple(itertools.pairwise(indices)):
            return Panel("", "", tuple(boxes), all_edges, is_chain=False)
        return self._folded(boxes)

    def _inside(self, path: str) -> list[Box]:
        return [box for box in self.graph.boxes.values() if _is_inside(box.path, path)]

    def _groups(self, path: str) -> list[list[Box]]:
        """The boxes of each submodule of a module, and each of its own."""
        groups: dict[str | int, list[Box]] = {}
        for box in self._inside(path):
            groups.setdefault(box.index if box.path == path else self._child(box.path, path), []).append(box)
        return list(groups.values())

    def _child(self, path: str, parent: str) -> str:
        """The submodule of `parent` that holds `path`; a list of modules does not run itself."""
        names = path.split(".")
        first = parent.count(".") + 2 if parent else 1
        prefixes = [".".join(names[:depth]) for depth in range(first, len(names) + 1)]
        return next((prefix for prefix in prefixes if prefix in self.num_calls), path)

    def _items(self, path: str, fold_all: bool = False) -> Iterator[list[Box]]:
        """The boxes of each item of a panel: a single box, or those of a unit."""
        for group in self._groups(path):
            child = self._child(group[0].path, path) if len(group) > 1 else ""
            if len(group) == 1:
                yield group
            elif self.num_calls.get(child, 1) > 1:  # a shared module: it has several places
                yield from ([box] for box in group)
            elif self._is_serial(child) and not fold_all:
                yield from self._items(child)
            else:
                yield group

    def _is_serial(self, path: str) -> bool:
        """Whether the submodules run one after another, each on the output of the one before."""
        groups = self._groups(path)
        position = {box.index: i for i, group in enumerate(groups) for box in group}
        steps = set()
        for source, target in self.graph.edges:
            if source in position or target in position:
                steps.add((position.get(source, -1), position.get(target, len(groups))))
        steps = {(a, b) for a, b in steps if a != b}
        return all(b == a + 1 for a, b in steps)

    def _is_cyclic(self, items: Sequence[Sequence[Box]]) -> bool:
        """Whether an item reads what another made from its output."""
        home = {box.index: i for i, group in enumerate(items) for box in group}
        edges = {(home[s], home[t]) for s, t in self.graph.edges if s in home and t in home}
        left = {i: {s for s, t in edges if t == i and s != i} for i in range(len(items))}
        while ready := [i for i, sources in left.items() if not sources & left.keys()]:
            for i in ready:
                del left[i]
        return bool(left)

    def _unit_box(self, group: Sequence[Box], parent: str) -> Box:
        path = common_path(box.path for box in group)
        kind = self._signature(group, with_sizes=False)
        self.units.setdefault(kind, []).append(path)
        name = path.removeprefix(f"{parent}.") if parent else path
        outputs = [box for box in group if self._leaves(box, {other.index for other in group})]
        shape = (outputs or group)[-1].shape
        return Box(group[0].index, path, "unit", name, (self._letter(kind),), shape)

    def _leaves(self, box: Box, inside: set[int]) -> bool:
        """Whether the output of a box is read outside."""
        return box.index in self.graph.outputs or any(
            t not in inside for t in self.readers.get(box.index, ())
        )

    def _signature(self, group: Sequence[Box], with_sizes: bool) -> Any:
        """Equal for units of one kind; with sizes, for units that are repetitions."""
        position = {box.index: i for i, box in enumerate(group)}
        edges = [[position.get(source, -1) for source in self.sources.get(box.index, ())] for box in group]
        texts = [(box.kind, box.operation, box.details) for box in group]
        sizes = [(box.size, box.shape) for box in group] if with_sizes else []
        return repr((texts, edges, sizes))

    def _inputs(self, home: Mapping[int, int]) -> tuple[list[Box], list[Edge]]:
        """Boxes for what the panel reads from outside."""
        boxes: dict[int, Box] = {}
        edges: dict[Edge, None] = {}
        for source, target in self.graph.edges:
            if target in home and source not in home:
                boxes[source] = replace(
                    self.graph.boxes[source], path="", kind="input", operation="input", details=(), size=None
                )
                edges[source, home[target]] = None
        return list(boxes.values()), list(edges)

    def _outputs(self, home: Mapping[int, int]) -> tuple[list[Box], list[Edge]]:
        inside = set(home)
        outputs = [
            box for index, box in self.graph.boxes.items() if index in home and self._leaves(box, inside)
        ]
        boxes = [
            Box(OUTPUTS + number, "", "output", "output", (), box.shape) for number, box in enumerate(outputs)
        ]
        return boxes, [(home[box.index], OUTPUTS + number) for number, box in enumerate(outputs)]

    def _folded(self, boxes: Sequence[Box]) -> Panel:
        """A chain with its repetitions drawn once."""
        keys = [self._repetition_key(box) for box in boxes]
        are_units = [box.kind == "unit" for box in boxes]
        drawn: list[Box] = []
        repeats: list[Repeat] = []
        start = 0
        while start < len(boxes):
            length, count = _best_period(keys, start, are_units)
            saved = length * (count - 1)
            later = (_best_period(keys, start + i, are_units) for i in range(1, length))
            if any(a * (b - 1) >= saved for a, b in later):  # a run begins where its module begins
                length, count = 1, 1
            run = list(boxes[start : start + length])
            if count > 1:
                repeats.append(Repeat(len(drawn), length, count))
                if length == 1 and run[0].kind == "unit":
                    last = boxes[start + count - 1].operation.rpartition(".")[2]
                    run[0] = replace(run[0], operation=f"{run[0].operation} to {last}")
            drawn += run
            start += length * count
        indices = [box.index for box in drawn]
        edges = tuple(itertools.pairwise(indices))
        return Panel("", "", tuple(drawn), edges, is_chain=True, repeats=tuple(repeats))

    def _repetition_key(self, box: Box) -> Any:
        if box.kind == "unit":
            return self._signature(self._inside(box.path), with_sizes=True)
        return (box.kind, box.operation, box.details, box.size, box.shape)


def _best_period(keys: Sequence[Any], start: int, are_units: Sequence[bool]) -> tuple[int, int]:
    """Length and count of the repetition from `start` that saves most boxes; (1, 1) without any."""
    best = (1, 1)
    for length in range(1, MAX_PERIOD + 1):
        run = keys[start : start + length]
        count = 1
        while keys[start + count * length : start + (count + 1) * length] == run:
            count += 1
        enough = 2 if all(are_units[start : start + length]) else MIN_REPEATS
        if count >= enough and length * (count - 1) > best[0] * (best[1] - 1):
            best = (length, count)
    return best


def _is_inside(path: str, parent: str) -> bool:
    return not parent or path == parent or path.startswith(f"{parent}.")
