"""`analyze`: one forward pass on meta tensors, and a report that renders itself."""

from typing import Any

import torch
from torch import nn

from convatlas.analysis.render.html import render_fragment, render_html
from convatlas.analysis.render.tables import render_markdown, render_text, title
from convatlas.analysis.report import ReportData
from convatlas.analysis.trace.trace import trace
from convatlas.errors import UsageError, printable
from convatlas.storage.records import encode_json

MAX_DEPTH = 1000  # names in a path: every layer gets its own row


class Report(ReportData):
    """The result of `analyze`: the figures of one forward pass, also as JSON, Markdown or an HTML page.

    `depth` is the number of names in a path: deeper rows are merged. By default every layer has its own row.
    `print(report)` shows a table by stage; a notebook shows one whose stages unfold.
    """

    def __str__(self) -> str:
        return render_text(self)

    def __repr__(self) -> str:
        return f"<Report of {title(self)}: {self.params:,} parameters, {self.macs:,} multiply-adds>"

    def _repr_html_(self) -> str:
        return render_fragment(self)

    def to_json(self, depth: int | None = None) -> str:
        return encode_json(self.document(depth)).decode()

    def to_markdown(self, depth: int | None = None) -> str:
        return render_markdown([self], MAX_DEPTH if depth is None else depth)

    def to_html(self) -> str:
        """One page that needs no other file."""
        return render_html(self)

    def to_svg(self, path: str = "") -> str:
        """The diagram of the network, or of its module at `path`: stages, and one module of each kind."""
        from convatlas.analysis.render.svg import render_svg  # XML takes memory that `analyze` does not need

        return render_svg(self, path).decode()


def analyze(model: nn.Module, input: Any = None, num_axes: int | None = None, device: str = "meta") -> Report:
    """Shapes, cost, memory and receptive field of any module, from one forward pass without data.

    The caller's module stays as it was.

    `input`: (channels, height, width) of one image; or example inputs of any structure: a tensor, a tuple of
    the forward's arguments, or a dictionary of them by name. The first tensor is the image (batch, channels,
    height, width); `num_axes` is the number of its last dimensions that are axes of the image, by default all
    except batch and channels. `device="cpu"` computes with copies of the real weights, which a module needs
    whose control flow depends on values.

    Of a module that returns several values the entry `logits` or `out` is its output, else the first tensor.

    Raises UsageError for an input that the module cannot take, naming the layer; UserError for a module that
    meta tensors cannot run.
    """
    if isinstance(model, str):
        raise UsageError(
            f"analyze takes a module, not the name '{printable(model)}': "
            f"build it with ca.create_model('{printable(model)}')"
        )
    if input is None:
        raise UsageError(
            "analyze needs an input: the shape of one image, as in ca.analyze(model, (3, 224, 224)), or "
            "example inputs"
        )
    architecture = getattr(model, "architecture", None)  # only a network of the atlas has one
    # A forward on the CPU may use random numbers; operators are visible only outside inference mode.
    with torch.random.fork_rng(devices=[]), torch.inference_mode(False):
        result = trace(model, input, num_axes, device)
    edits = [str(edit) for edit in getattr(architecture, "edits", ())]
    return Report(result, getattr(architecture, "name", ""), getattr(architecture, "edition", None), edits)
