"""Reading a network: one forward on meta tensors, and a report that renders itself."""

from typing import Any

import msgspec
import torch
from torch import nn

from convatlas.analysis.render.html import html
from convatlas.analysis.render.tables import markdown
from convatlas.analysis.report import ReportData
from convatlas.analysis.trace.trace import trace

MAX_DEPTH = 1000  # names deep: every layer by itself


class Report(ReportData):
    """What `analyze` returns: the figures of one forward, and the same as JSON, Markdown or a page."""

    def to_json(self, depth: int | None = None) -> str:
        return msgspec.json.encode(self.document(depth)).decode()

    def to_markdown(self, depth: int | None = None) -> str:
        return markdown([self], MAX_DEPTH if depth is None else depth)

    def to_html(self) -> str:
        """One page that needs nothing beside it."""
        return html(self)


def analyze(model: nn.Module, input: Any, axes: int | None = None, device: str = "meta") -> Report:
    """Shapes, cost, memory and receptive field of any module, from one forward without data: the caller's module is left as it was.

    `input`: (channels, height, width) of one image; or example inputs of any structure: a tensor, a tuple of the forward's arguments, a
    dictionary of them by name. The first tensor is the image, (batch, channels, height, width), or fewer or more `axes`.
    `device="cpu"` computes with copies of the real weights, which a module needs whose course depends on values.
    Raises UsageError for an input that the module cannot take, naming the layer; UserError for a module that meta tensors cannot run.
    """
    architecture = getattr(model, "architecture", None)  # a network of the atlas knows its name
    with torch.random.fork_rng(devices=[]), torch.inference_mode(False):  # a forward on the CPU may draw; operators show only outside it
        found = trace(model, input, axes, device)
    return Report(found, getattr(architecture, "name", ""), getattr(architecture, "edition", None))
