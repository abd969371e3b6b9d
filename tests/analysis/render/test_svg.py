"""The diagram as SVG: every network draws, boxes stand apart, edges are those of the trace."""

import functools
import itertools
import re
import xml.etree.ElementTree as ET
from collections.abc import Mapping

import pytest
import torch
from helpers.networks import DEEP, HUGE
from torch import Tensor, nn

from convatlas import models
from convatlas.analysis import Report, analyze
from convatlas.analysis.render.boxes import box_graph
from convatlas.analysis.render.svg import render_svg
from convatlas.errors import UsageError

SVG = "{http://www.w3.org/2000/svg}"
Rectangle = tuple[float, float, float, float]  # left, top, right, bottom
NAMES = [
    pytest.param(name, marks=[pytest.mark.slow] if name in (*DEEP, *HUGE) else [])
    for name in models.list_models()
]


@functools.cache
def report_of(name: str) -> Report:
    with torch.device("meta"):
        model = models.create_model(name)
    return analyze(model, models.get_entry(name).input)


def rectangles(panel: ET.Element) -> dict[str, Rectangle]:
    """By the index of the box."""
    result = {}
    for group in panel.findall(f"{SVG}g"):
        rect = group.find(f"{SVG}rect")
        assert rect is not None
        x, y, width, height = (float(rect.attrib[key]) for key in ("x", "y", "width", "height"))
        result[group.attrib["data-index"]] = (x, y, x + width, y + height)
    return result


def overlap(a: Rectangle, b: Rectangle) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def reachable(edges: set[tuple[int, int]]) -> set[tuple[int, int]]:
    """All pairs with a path from the first to the second; indices rise along every edge."""
    before: dict[int, set[int]] = {}
    for source, target in sorted(edges, key=lambda edge: edge[1]):
        before.setdefault(target, set()).update({source} | before.get(source, set()))
    return {(source, target) for target, sources in before.items() for source in sources}


@pytest.mark.parametrize("name", NAMES)
def test_every_network_is_drawn_without_overlaps(name: str) -> None:
    report = report_of(name)
    root = ET.fromstring(render_svg(report))
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    assert 300 < width < 2500
    assert 300 < height < 2500
    for panel in root.findall(f"{SVG}g"):
        boxes = rectangles(panel)
        assert not any(overlap(a, b) for a, b in itertools.combinations(boxes.values(), 2))
        offset_x, offset_y = map(float, re.findall(r"[-.0-9]+", panel.attrib["transform"]))
        for left, top, right, bottom in boxes.values():
            assert left + offset_x >= 0
            assert right + offset_x <= width
            assert top + offset_y >= 0
            assert bottom + offset_y <= height
        for path in panel.findall(f"{SVG}path"):
            ends = {path.attrib["data-from"], path.attrib["data-to"]}
            assert ends <= boxes.keys()
            assert not any(
                overlap(line, box)
                for line in vertical_lines(path.attrib["d"])
                for index, box in boxes.items()
                if index not in ends
            )


def vertical_lines(path: str) -> list[Rectangle]:
    points = [tuple(map(float, text.split()[-2:])) for text in re.split("[MLC]", path) if text]
    pairs = itertools.pairwise(points)
    return [(x, min(y, b), x, max(y, b)) for (x, y), (a, b) in pairs if x == a]


@pytest.mark.parametrize("name", NAMES)
def test_boxes_depend_on_each_other_as_the_operators_of_the_trace_do(name: str) -> None:
    trace = report_of(name).trace
    graph = box_graph(trace)
    first: dict[int, int] = {}  # of every operator, the first of its module if that has no submodules
    for call in trace.calls:
        for operation in call.operations:
            is_in_same_call = [o.index for o in call.operations if o.module_call == operation.module_call]
            first[operation.index] = is_in_same_call[0] if call.is_leaf else operation.index
    edges = {
        (first.get(source, source), first[o.index])
        for call in trace.calls
        for o in call.operations
        for source in o.sources
    }
    in_trace = reachable({(a, b) for a, b in edges if a != b})
    drawn = reachable(set(graph.edges))
    assert drawn == {(a, b) for a, b in in_trace if a in graph.boxes and b in graph.boxes}


def test_the_same_network_gives_the_same_bytes() -> None:
    assert render_svg(report_of.__wrapped__("googlenet")) == render_svg(report_of("googlenet"))


def test_names_are_escaped_and_control_characters_replaced() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.add_module('<b>"&\x00\ufffe', nn.Sequential(nn.Conv2d(1, 2, 1), nn.Conv2d(2, 1, 1)))

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = x
            for module in self.children():
                out = module(x) + x
            return out

    Named.__name__ = "<script>"
    svg = render_svg(analyze(Named(), (1, 4, 4)))
    texts = [element.text for element in ET.fromstring(svg).iter() if element.text]
    assert any('<b>"&' in text for text in texts)
    assert b"<script>" not in svg
    assert b"\x00" not in svg


def test_a_path_that_does_not_exist_is_refused() -> None:
    with pytest.raises(UsageError, match="unknown layer of lenet5 'C2': the nearest is"):
        render_svg(report_of("lenet5"), "C2")


def texts_of(name: str, path: str = "") -> Mapping[str, int]:
    texts = [
        element.text or "" for element in ET.fromstring(render_svg(report_of(name), path)).iter(f"{SVG}text")
    ]
    return {text: texts.count(text) for text in texts}


def test_sizes_stand_between_stages_and_repetitions_beside_them() -> None:
    texts = texts_of("resnet34")
    assert {"64 × 112 × 112", "64 × 56 × 56", "128 × 28 × 28", "256 × 14 × 14", "512 × 7 × 7"} <= texts.keys()
    assert {"× 3", "× 5", "× 2"} <= texts.keys()
    assert "7×7 conv, 64, /2" in texts
    assert "21.8 M parameters, 3.66 G multiply-adds" in texts
