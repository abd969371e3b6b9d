"""`analyze`: one forward pass on meta tensors, and a report that renders itself."""

from typing import Any

import torch
from torch import nn

from convatlas.analysis.render.html import render_html
from convatlas.analysis.render.tables import render_markdown
from convatlas.analysis.report import ReportData
from convatlas.analysis.trace.trace import trace
from convatlas.storage.records import encode_json

MAX_DEPTH = 1000  # names in a path: every layer gets its own row


class Report(ReportData):
    """The result of `analyze`: the figures of one forward pass, also as JSON, Markdown or an HTML page.

    `depth` is the number of names in a path: deeper rows are merged. By default every layer has its own row.
    """

    def to_json(self, depth: int | None = None) -> str:
        return encode_json(self.document(depth)).decode()

    def to_markdown(self, depth: int | None = None) -> str:
        return render_markdown([self], MAX_DEPTH if depth is None else depth)

    def to_html(self) -> str:
        """One page that needs no other file."""
        return render_html(self)


def analyze(model: nn.Module, input: Any, num_axes: int | None = None, device: str = "meta") -> Report:
    """Shapes, cost, memory and receptive field of any module, from one forward pass without data.

    The caller's module stays as it was.

    `input`: (channels, height, width) of one image; or example inputs of any structure: a tensor, a tuple of
    the forward's arguments, or a dictionary of them by name. The first tensor is the image (batch, channels,
    height, width); `num_axes` is the number of its last dimensions that are axes of the image, by default all
    except batch and channels. `device="cpu"` computes with copies of the real weights, which a module needs
    whose control flow depends on values.

    Raises UsageError for an input that the module cannot take, naming the layer; UserError for a module that
    meta tensors cannot run.
    """
    architecture = getattr(model, "architecture", None)  # only a network of the atlas has one
    # A forward on the CPU may use random numbers; operators are visible only outside inference mode.
    with torch.random.fork_rng(devices=[]), torch.inference_mode(False):
        result = trace(model, input, num_axes, device)
    return Report(result, getattr(architecture, "name", ""), getattr(architecture, "edition", None))
