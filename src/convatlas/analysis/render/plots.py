"""A report as pictures: cost and receptive field along depth, and what a unit sees in effect beside what it could."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import EngFormatter, MaxNLocator
from numpy.typing import NDArray
from torch import nn

from convatlas.analysis.receptive_field.effective import effective_field
from convatlas.analysis.render.tables import title
from convatlas.analysis.report import ReportData
from convatlas.analysis.rows import sides

STYLE: Any = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.titlesize": 9, "figure.dpi": 110}
COLOURS = ("tab:blue", "tab:orange")
SHOWN = 4  # effective fields in a row
VISIBLE = 12  # smaller parts of the image are hard to see
DEAR = 50e9  # multiply-adds
Fields = Mapping[str, NDArray[np.float32]]


def draw_report(reports: Sequence[ReportData], fields: Sequence[Fields]) -> bytes:
    """Multiply-adds and receptive field of each layer along depth, one colour a network; under them `effective_fields` of each."""
    rows = [given for given in zip(reports, fields, strict=True) if given[1]]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10, 4.6 + 2.9 * len(rows)), layout="constrained")
        parts = figure.subfigures(1 + len(rows), 1, squeeze=False, height_ratios=[4.6, *[2.9] * len(rows)])[:, 0]
        cost, field = parts[0].subplots(2, 1, sharex=True)
        for report, colour in zip(reports, COLOURS, strict=False):
            _cost(cost, report, colour)
            _theoretical(field, report, colour)
        cost.set(ylabel="multiply-adds")
        cost.yaxis.set_major_formatter(EngFormatter())
        field.set(ylabel="receptive field (pixels)", xlabel="layers with weights, in the order in which they run")
        cost.set_xlim(0.4, max(len(_layers(report)) for report in reports) + 0.6)
        cost.xaxis.set_major_locator(MaxNLocator(integer=True))
        for axis in (cost, field):
            axis.legend(frameon=False, fontsize=8, loc="lower left", bbox_to_anchor=(0, 1), ncols=4, borderaxespad=0.2)
        for part, (report, maps) in zip(parts[1:], rows, strict=True):
            part.suptitle(
                f"{report.model}: what the unit in the middle sees. Bright: the root of how strongly each pixel moves it (gradient, random "
                "weights and images); square: what it could see",
                fontsize=8.5,
            )
            for axis, (path, strength) in zip(part.subplots(1, SHOWN, squeeze=False)[0], maps.items(), strict=False):
                _effective(axis, path, strength, report)
            for axis in part.axes[len(maps) :]:
                axis.axis("off")
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png")
    return buffer.getvalue()


def effective_fields(model: nn.Module, report: ReportData, draws: int = 4) -> Fields:
    """Those of up to four stages that end in a map; none where the input is not one image of three axes.

    Fewer draws where a forward is dear, so that it takes seconds.
    """
    shape = report.inputs[0]
    if len(report.inputs) != 1 or len(shape) != 4:
        return {}
    maps = [row for row in report.stages if row.path and len(row.output_shape) == 4 and min(row.output_shape[2:]) > 1]
    maps = list({tuple(row.receptive_field): row for row in reversed(maps)}.values())[::-1]  # the first that sees so far
    maps = [row for row in maps if row.receptive_field and min(row.receptive_field) > min(shape[2:]) / VISIBLE] or maps
    chosen = [maps[round(i * (len(maps) - 1) / (SHOWN - 1))] for i in range(SHOWN)] if len(maps) > SHOWN else maps
    draws = max(1, min(draws, int(DEAR / max(report.macs, 1))))
    return effective_field(model, (shape[1], shape[2], shape[3]), [row.path for row in chosen], draws)


def _layers(report: ReportData) -> list[Any]:
    return [row for row in report.rows if row.macs]


def _cost(axis: Axes, report: ReportData, colour: str) -> None:
    macs = [row.macs for row in _layers(report)]
    axis.bar(range(1, len(macs) + 1), macs, width=1.0 if len(macs) > 100 else 0.85, color=colour, alpha=0.55, lw=0)
    axis.plot([], [], color=colour, lw=4, alpha=0.55, label=f"{title(report)}: {EngFormatter(places=2)(report.macs)} in all")


def _theoretical(axis: Axes, report: ReportData, colour: str) -> None:
    rows = _layers(report)
    places = [i for i, row in enumerate(rows, 1) if row.receptive_field]
    sizes = [max(rows[i - 1].receptive_field) for i in places]
    axis.step(places, sizes, where="mid", color=colour, lw=1.5, label=f"{report.model}, at most {max(sizes, default=0):,}")
    side = max(report.inputs[0][2:], default=0)
    axis.axhline(side, color=colour, lw=0.8, ls=":", label=f"the image of {report.model}, {side}")
    axis.set_yscale("log")
    axis.yaxis.set_major_formatter("{x:g}")


def _effective(axis: Axes, path: str, strength: NDArray[np.float32], report: ReportData) -> None:
    axis.imshow(np.sqrt(strength), cmap="magma", vmin=0, vmax=1, interpolation="nearest")
    h, w = strength.shape
    extents, units = report.receptive_field(path), report.module(path).output_shape[2:]
    rows, columns = report.pixels(path, [side // 2 for side in units])
    inside = False
    if rows is not None and columns is not None:
        inside = rows[0] > 0 or columns[0] > 0 or rows[1] < h - 1 or columns[1] < w - 1
        if inside:
            size = (columns[1] - columns[0] + 1, rows[1] - rows[0] + 1)
            axis.add_patch(Rectangle((columns[0] - 0.5, rows[0] - 0.5), *size, fill=False, ec="cyan", lw=1.2))
    note = "" if inside else ", beyond the image"
    axis.set_title(f"{path}: {sides(e.size for e in extents)}{note}", fontsize=8.5)
    if not strength.any():
        axis.text(w / 2, h / 2, "nothing moves it:\nits weights begin at zero", color="white", ha="center", va="center", fontsize=8)
    axis.set(xlim=(-0.5, w - 0.5), ylim=(h - 0.5, -0.5), xticks=[0, w - 1], yticks=[0, h - 1])
    axis.spines[:].set_visible(True)
