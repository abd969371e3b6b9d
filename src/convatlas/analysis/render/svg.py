"""A network's diagram as SVG: its panels side by side, text as text, the same bytes for the same network."""

import re
import xml.etree.ElementTree as ET
from collections.abc import Sequence

from convatlas.analysis.render.boxes import Box
from convatlas.analysis.render.diagram import diagram
from convatlas.analysis.render.layered_layout import Point
from convatlas.analysis.render.placement import (
    FONT,
    LINE,
    PADDING,
    ROUND,
    SMALL_FONT,
    TITLE_FONT,
    Drawing,
    box_lines,
    place,
    text_width,
)
from convatlas.analysis.render.tables import title
from convatlas.analysis.report import ReportData
from convatlas.errors import printable
from convatlas.formatting import format_si

FILLS = {  # by kind; light enough for black text, and different to colour-blind eyes
    "input": "#ffffff",
    "output": "#ffffff",
    "convolution": "#cfe2f3",
    "linear": "#d9d2e9",
    "pooling": "#fce5cd",
    "join": "#d9ead3",
    "unit": "#fff2b3",
}
OTHER_FILL = "#eeeeee"
MARGIN = 24.0
_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def render_svg(report: ReportData, path: str = "") -> bytes:
    """The diagram of a network, or of its module at `path`, with a panel for one of each kind of unit.

    Raises UsageError for a path that did not run, UserError for a module that does not lead to the output.
    """
    if path:
        report.module(path)
    panels = diagram(report.trace, path)
    heading = title(report) + (f": {path}" if path else "")
    subtitle = f"{format_si(report.params)} parameters, {format_si(report.macs)} multiply-adds"
    if path:
        row = report.module(path)
        subtitle = f"{format_si(row.params)} parameters, {format_si(row.macs)} multiply-adds"
    return _document(heading, subtitle, *place(panels))


def _document(
    heading: str, subtitle: str, placed: Sequence[tuple[float, float, Drawing]], width: float, height: float
) -> bytes:
    width = max(width, text_width(heading, 16), text_width(subtitle, FONT)) + 2 * MARGIN
    top = MARGIN + 50
    height += top + MARGIN
    root = ET.Element(
        "svg",
        {
            "xmlns": "http://www.w3.org/2000/svg",
            "width": _number(width),
            "height": _number(height),
            "viewBox": f"0 0 {_number(width)} {_number(height)}",
            "font-family": "Helvetica, Arial, sans-serif",
            "font-size": _number(FONT),
            "fill": "#111111",
        },
    )
    _text_element(root, "title", heading)
    definitions = ET.SubElement(root, "defs")
    arrow = {"id": "arrow", "viewBox": "0 0 8 8", "refX": "7", "refY": "4", "markerWidth": "7"}
    marker = ET.SubElement(definitions, "marker", arrow | {"markerHeight": "7", "orient": "auto"})
    ET.SubElement(marker, "path", {"d": "M0 0.5L8 4L0 7.5z", "fill": "#444444"})
    ET.SubElement(root, "rect", {"width": "100%", "height": "100%", "fill": "#ffffff"})
    _text(root, heading, MARGIN, MARGIN + 14, {"font-size": "16", "font-weight": "bold"})
    _text(root, subtitle, MARGIN, MARGIN + 32, {"fill": "#555555"})
    for left, above, drawing in placed:
        place = f"translate({_number(MARGIN + left)} {_number(top + above)})"
        group = ET.SubElement(root, "g", {"class": "panel", "transform": place})
        if drawing.panel.title:
            title_style = {"font-size": _number(TITLE_FONT), "font-weight": "bold"}
            _text(group, drawing.panel.title, 0, 10, title_style)
        if drawing.panel.note:
            note_style = {"font-size": _number(SMALL_FONT), "fill": "#555555"}
            _text(group, drawing.panel.note, 0, 24, note_style)
        _draw(group, drawing)
    ET.indent(root, "")
    text: bytes = ET.tostring(root, "utf-8", xml_declaration=True)
    return text + b"\n"


def _draw(group: ET.Element, drawing: Drawing) -> None:
    for (source, target), points in drawing.routes.items():
        attributes = {"class": "edge", "data-from": str(source), "data-to": str(target), "d": _path(points)}
        style = {"fill": "none", "stroke": "#444444", "stroke-width": "1.2", "marker-end": "url(#arrow)"}
        ET.SubElement(group, "path", attributes | style)
    for x, y, width, height in drawing.frames:
        frame = _rectangle(x, y, width, height) | {"class": "repeat", "fill": "none", "stroke": "#777777"}
        ET.SubElement(group, "rect", frame | {"stroke-dasharray": "4 3", "rx": "6"})
    for box in drawing.panel.boxes:
        _draw_box(group, box, drawing)
    for x, y, text, kind in drawing.marks:
        bold = {"font-weight": "bold"} if kind == "count" else {"font-size": "10", "fill": "#555555"}
        _text(group, text, x, y, {"class": kind} | bold)


def _draw_box(group: ET.Element, box: Box, drawing: Drawing) -> None:
    x, y = drawing.corners[box.index]
    width, height = drawing.sizes[box.index]
    node = ET.SubElement(group, "g", {"class": f"box {box.kind}", "data-index": str(box.index)})
    if box.path:
        _text_element(node, "title", box.path)
    fill = {"fill": FILLS.get(box.kind, OTHER_FILL), "stroke": "#444444"}
    rounded = {"rx": _number(height / 2 if box.kind in ROUND else 3)}
    ET.SubElement(node, "rect", _rectangle(x, y, width, height) | fill | rounded)
    with_shape = round((height - PADDING) / LINE) > len(box_lines(box))
    lines = box_lines(box, with_shape)
    for number, line in enumerate(lines):
        style = {"text-anchor": "middle"}
        if number:
            style |= {"font-size": _number(SMALL_FONT), "fill": "#333333"}
        baseline = y + PADDING / 2 + LINE * number + 11.5
        _text(node, line, x + width / 2, baseline, style)


def _path(points: Sequence[Point]) -> str:
    """Straight where a line is vertical or horizontal, else a curve that begins and ends vertically."""
    x, y = points[0]
    parts = [f"M{_number(x)} {_number(y)}"]
    for next_x, next_y in points[1:]:
        if abs(next_x - x) < 0.05 or abs(next_y - y) < 0.05:
            parts.append(f"L{_number(next_x)} {_number(next_y)}")
        else:
            middle = (y + next_y) / 2
            curve = ((x, middle), (next_x, middle), (next_x, next_y))
            parts.append("C" + " ".join(f"{_number(a)} {_number(b)}" for a, b in curve))
        x, y = next_x, next_y
    return "".join(parts)


def _rectangle(x: float, y: float, width: float, height: float) -> dict[str, str]:
    return {"x": _number(x), "y": _number(y), "width": _number(width), "height": _number(height)}


def _text(parent: ET.Element, text: str, x: float, y: float, style: dict[str, str]) -> None:
    _text_element(parent, "text", text, {"x": _number(x), "y": _number(y)} | style)


def _text_element(parent: ET.Element, tag: str, text: str, attributes: dict[str, str] | None = None) -> None:
    ET.SubElement(parent, tag, attributes or {}).text = _NOT_XML.sub("?", printable(text))


def _number(value: float) -> str:
    return f"{round(value, 1):g}"
