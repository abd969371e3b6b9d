"""The places of a diagram's boxes, edges and texts on a page, in pixels."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from convatlas.analysis.render.boxes import Box, Edge
from convatlas.analysis.render.diagram import Panel
from convatlas.analysis.render.layered_layout import Point, layered_layout

ROUND = ("input", "output", "join")
FONT = 12.0
SMALL_FONT = 10.0
TITLE_FONT = 13.0
LINE = 15.0
PADDING = 7.0
CHAIN_GAP = 20.0
CHAIN_SHAPE_GAP = 32.0  # with a shape beside the arrow
COLUMN_GAP = 26.0
COUNT_SPACE = 44.0  # beside a chain with repetitions
PANEL_GAP = 44.0
TITLE_SPACE = 38.0
MAX_EQUAL_WIDTH = 170.0  # of a panel's boxes, which then have the widest one's width
MAX_TEXT = 34  # characters of a line
ASPECT = math.sqrt(2)  # A4, landscape; a slide is not far from it
MAX_COLUMNS = 5


@dataclass(slots=True)
class Drawing:
    """A panel with positions: boxes with their left top corner and size, edges as points, marks as texts."""

    panel: Panel
    width: float = 0.0
    height: float = 0.0
    corners: dict[int, Point] = field(default_factory=dict)
    sizes: dict[int, Point] = field(default_factory=dict)
    routes: dict[Edge, list[Point]] = field(default_factory=dict)
    marks: list[tuple[float, float, str, str]] = field(default_factory=list)  # x, y, text, class
    frames: list[tuple[float, float, float, float]] = field(default_factory=list)  # x, y, width, height


def box_lines(box: Box, with_shape: bool = False) -> list[str]:
    """The text of a box: the operation with its channels; the norm and activation after it; its size."""
    head, comma, tail = box.operation.partition(", ")
    if box.size is not None:
        head = f"{head}, {box.size:,}"
    lines = [_short(head + comma + tail)]
    if box.kind == "unit":
        channels = f", {box.shape[0]:,} channels" if len(box.shape) == 3 else ""
        lines.append(f"module {', '.join(box.details)}{channels}")
    elif box.kind == "join":
        lines = [", ".join([box.operation, *box.details])]
    elif box.kind in ("input", "output"):
        lines.append(shape_text(box.shape))
    elif box.details:
        lines.append(_short(", ".join(box.details)))
    if with_shape and len(box.shape) == 3:
        lines.append(f"to {shape_text(box.shape[1:])}")
    return lines


def shape_text(shape: Sequence[int]) -> str:
    return " × ".join(f"{side:,}" for side in shape)


def place(panels: Sequence[Panel]) -> tuple[list[tuple[float, float, Drawing]], float, float]:
    """Left top corner of each panel, and width and height of the page: as near to a page's shape as it goes.

    The first panel's chain is broken into columns; the others stand beside it, in columns of its height.
    """
    others = [draw_panel(panel) for panel in panels[1:]]
    best: tuple[list[tuple[float, float, Drawing]], float, float] | None = None
    for columns in range(1, MAX_COLUMNS + 1 if panels[0].is_chain else 2):
        main = draw_panel(panels[0], columns)
        tallest = max([main.height, *(other.height for other in others)])
        for limit in (tallest, tallest * 1.3, tallest * 1.7):
            placed, width, height = _pack(main, others, limit)
            if best is None or _misfit(width, height) < _misfit(best[1], best[2]):
                best = placed, width, height
    assert best is not None
    return best


def _misfit(width: float, height: float) -> float:
    """How much larger than necessary the page is that holds it."""
    return max(width / ASPECT, height)


def _pack(
    main: Drawing, others: Sequence[Drawing], limit: float
) -> tuple[list[tuple[float, float, Drawing]], float, float]:
    placed = [(0.0, 0.0, main)]
    left, top, widest, height = main.width + PANEL_GAP, 0.0, 0.0, main.height
    for other in others:
        if top > 0 and top + other.height > limit:
            left, top, widest = left + widest + PANEL_GAP, 0.0, 0.0
        placed.append((left, top, other))
        height = max(height, top + other.height)
        top += other.height + PANEL_GAP
        widest = max(widest, other.width)
    width = left + widest if others else main.width
    return placed, width, height


def draw_panel(panel: Panel, columns: int = 1) -> Drawing:
    """Place the boxes of a panel; a chain in so many columns."""
    drawing = _draw_chain(panel, columns) if panel.is_chain else _draw_graph(panel)
    drawing.width = max(
        drawing.width, text_width(panel.title, TITLE_FONT), text_width(panel.note, SMALL_FONT)
    )
    return drawing


def _draw_graph(panel: Panel) -> Drawing:
    by_index = {box.index: box for box in panel.boxes}
    resized = {
        target
        for source, target in panel.edges
        if by_index[target].kind not in ("output", "join")
        and by_index[source].shape[1:] != by_index[target].shape[1:]
    }
    sizes = {box.index: _box_size(box_lines(box, box.index in resized)) for box in panel.boxes}
    widest = max([sizes[box.index][0] for box in panel.boxes if box.kind not in ROUND], default=0)
    if widest <= MAX_EQUAL_WIDTH:
        sizes |= {box.index: (widest, sizes[box.index][1]) for box in panel.boxes if box.kind not in ROUND}
    layout = layered_layout(sizes, panel.edges)
    drawing = Drawing(panel, layout.width, layout.height + TITLE_SPACE, sizes=sizes)
    drawing.corners = {index: (x, y + TITLE_SPACE) for index, (x, y) in layout.corners.items()}
    drawing.routes = {
        edge: [(x, y + TITLE_SPACE) for x, y in points] for edge, points in layout.routes.items()
    }
    return drawing


def _draw_chain(panel: Panel, columns: int) -> Drawing:
    boxes = panel.boxes
    width = max(_box_size(box_lines(box))[0] for box in boxes)
    sizes = {box.index: (width, _box_size(box_lines(box))[1]) for box in boxes}
    drawing = Drawing(panel, sizes=sizes)
    pairs = list(itertools.pairwise(boxes))
    gaps = [_gap(a, b) for a, b in pairs] + [0.0]
    total = sum(sizes[box.index][1] + gap for box, gap in zip(boxes, gaps, strict=True))
    shapes = [shape_text(a.shape) for a, b in pairs if _changes_size(a, b)]
    beside = max([text_width(shape, SMALL_FONT) + 8 - width / 2 for shape in shapes], default=0.0)
    beside = max(beside, COUNT_SPACE if panel.repeats else 0.0)
    inner = {r.first + i for r in panel.repeats for i in range(1, r.length)}  # never first in a column
    x, y, column = 0.0, TITLE_SPACE, 0
    for number, box in enumerate(boxes):
        height = sizes[box.index][1]
        if column < columns - 1 and y + height / 2 > TITLE_SPACE + total / columns and number not in inner:
            x, y, column = x + width + beside + COLUMN_GAP, TITLE_SPACE, column + 1
        drawing.corners[box.index] = (x, y)
        drawing.height = max(drawing.height, y + height)
        y += height + gaps[number]
    drawing.width = x + width + beside
    _connect_chain(drawing, width)
    _mark_repeats(drawing, width)
    return drawing


def _gap(box: Box, below: Box) -> float:
    return CHAIN_SHAPE_GAP if _changes_size(box, below) else CHAIN_GAP


def _changes_size(box: Box, below: Box) -> bool:
    """Whether the maps of the next box have another size: then the shape stands beside the arrow."""
    return box.kind != "input" and below.kind != "output" and box.shape[1:] != below.shape[1:]


def _connect_chain(drawing: Drawing, width: float) -> None:
    boxes = drawing.panel.boxes
    for box, below in itertools.pairwise(boxes):
        x, y = drawing.corners[box.index]
        next_x, next_y = drawing.corners[below.index]
        bottom = y + drawing.sizes[box.index][1]
        center, next_center = x + width / 2, next_x + width / 2
        is_turn = next_x != x
        if not is_turn:
            drawing.routes[box.index, below.index] = [(center, bottom), (center, next_y)]
        else:
            between = next_x - COLUMN_GAP / 2
            corner_y, entry_y = bottom + CHAIN_GAP / 2, next_y - CHAIN_GAP / 2
            drawing.routes[box.index, below.index] = [
                *((center, bottom), (center, corner_y), (between, corner_y)),
                *((between, entry_y), (next_center, entry_y), (next_center, next_y)),
            ]
        if _changes_size(box, below):
            mark_y = bottom + CHAIN_GAP * (1.1 if is_turn else 0.7)  # below the line that leads to a column
            drawing.marks.append((center + 8, mark_y, shape_text(box.shape), "shape"))
            drawing.height = max(drawing.height, mark_y + 4)


def _mark_repeats(drawing: Drawing, width: float) -> None:
    boxes = drawing.panel.boxes
    for repeat in drawing.panel.repeats:
        first, last = boxes[repeat.first], boxes[repeat.first + repeat.length - 1]
        x, y = drawing.corners[first.index]
        bottom = drawing.corners[last.index][1] + drawing.sizes[last.index][1]
        if repeat.length > 1:
            drawing.frames.append((x - 6, y - 6, width + 12, bottom - y + 12))
        drawing.marks.append((x + width + 12, (y + bottom) / 2 + 4, f"× {repeat.count}", "count"))


def _box_size(lines: Sequence[str]) -> Point:
    width = max(text_width(line, FONT if i == 0 else SMALL_FONT) for i, line in enumerate(lines))
    return math.ceil(width) + 2 * PADDING, LINE * len(lines) + PADDING


def text_width(text: str, size: float) -> float:
    """An upper estimate of a text's width in a usual sans-serif font."""
    narrow = sum(character in "iljtf.,:;'|!() " for character in text)
    wide = sum(character in "mwMW%@+×" or ord(character) > 0x2E80 for character in text)
    capitals = sum(character.isupper() and character not in "MW" for character in text)
    rest = len(text) - narrow - wide - capitals
    return size * (0.34 * narrow + 0.95 * wide + 0.72 * capitals + 0.58 * rest)


def _short(text: str) -> str:
    return text if len(text) <= MAX_TEXT else f"{text[: MAX_TEXT - 10]}…{text[-9:]}"
