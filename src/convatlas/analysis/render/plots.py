"""A report as plots: cost and receptive field along depth, and effective receptive fields."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.patches import Rectangle
from matplotlib.ticker import EngFormatter, MaxNLocator
from numpy.typing import NDArray
from torch import nn

from convatlas.analysis.receptive_field.effective import effective_receptive_fields
from convatlas.analysis.render.tables import title
from convatlas.analysis.report import ReportData
from convatlas.analysis.rows import Row, format_size
from convatlas.plotting import figure_png, figure_text, plot_style

COLORS = ("tab:blue", "tab:orange")  # one for each network
MAX_FIELDS = 4  # effective fields in a row
MIN_FIELD_DIVISOR = 12  # a field smaller than this fraction of the image is hard to see
MAX_MACS = 50e9  # of all forward passes for the effective fields
CURVES_HEIGHT, FIELDS_HEIGHT = 4.6, 2.9  # inches
EffectiveFields = Mapping[str, NDArray[np.float32]]


def draw_report(reports: Sequence[ReportData], fields: Sequence[EffectiveFields]) -> bytes:
    """A PNG with multiply-adds and receptive field of each layer along depth, one colour for each network.

    Under them a row of effective fields for each network that has any in `fields`.
    """
    rows = [(report, maps) for report, maps in zip(reports, fields, strict=True) if maps]
    heights = [CURVES_HEIGHT, *[FIELDS_HEIGHT] * len(rows)]
    with plot_style(title_size=9):
        figure = Figure(figsize=(10, CURVES_HEIGHT + FIELDS_HEIGHT * len(rows)), layout="constrained")
        panels = figure.subfigures(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0]
        _draw_curves(panels[0], reports)
        for panel, (report, maps) in zip(panels[1:], rows, strict=True):
            _draw_fields(panel, report, maps)
        return figure_png(figure)


def effective_fields(model: nn.Module, report: ReportData, num_images: int = 4) -> EffectiveFields:
    """The effective fields of up to four stages whose output is a feature map, by path.

    Empty where the input is not one image with two axes. Fewer images are used where a forward pass is
    expensive, so that it takes seconds.
    """
    if len(report.input_shapes) != 1 or len(report.input_shapes[0]) != 4:
        return {}
    _, channels, height, width = report.input_shapes[0]
    stages = [
        row
        for row in report.stages
        if row.path and len(row.output_shape) == 4 and min(row.output_shape[2:]) > 1
    ]
    # Of stages with the same field, the first.
    stages = list({tuple(row.receptive_field): row for row in reversed(stages)}.values())[::-1]
    min_side = min(height, width) / MIN_FIELD_DIVISOR
    stages = [row for row in stages if row.receptive_field and min(row.receptive_field) > min_side] or stages
    if len(stages) > MAX_FIELDS:
        stages = [stages[round(i * (len(stages) - 1) / (MAX_FIELDS - 1))] for i in range(MAX_FIELDS)]
    num_images = max(1, min(num_images, int(MAX_MACS / max(report.macs, 1))))
    paths = [row.path for row in stages]
    return effective_receptive_fields(model, (channels, height, width), paths, num_images)


def _draw_curves(panel: SubFigure, reports: Sequence[ReportData]) -> None:
    cost_axes, field_axes = panel.subplots(2, 1, sharex=True)
    for report, color in zip(reports, COLORS, strict=False):
        _plot_cost(cost_axes, report, color)
        _plot_receptive_field(field_axes, report, color)
    cost_axes.set(ylabel="multiply-adds")
    cost_axes.yaxis.set_major_formatter(EngFormatter())
    field_axes.set(
        ylabel="receptive field (pixels)", xlabel="layers with weights, in the order in which they run"
    )
    cost_axes.set_xlim(0.4, max(len(_layers(report)) for report in reports) + 0.6)
    cost_axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    for axes in (cost_axes, field_axes):
        axes.legend(
            frameon=False, fontsize=8, loc="lower left", bbox_to_anchor=(0, 1), ncols=4, borderaxespad=0.2
        )


def _draw_fields(panel: SubFigure, report: ReportData, maps: EffectiveFields) -> None:
    panel.suptitle(
        f"{figure_text(report.model)}: effective receptive field of the centre unit. Brightness: root of the "
        "mean gradient by each pixel (random weights and images); square: theoretical field",
        fontsize=8.5,
    )
    panel_axes = panel.subplots(1, MAX_FIELDS, squeeze=False)[0]
    for axes, (path, field) in zip(panel_axes, maps.items(), strict=False):
        _plot_effective_field(axes, path, field, report)
    for axes in panel_axes[len(maps) :]:
        axes.axis("off")


def _layers(report: ReportData) -> list[Row]:
    return [row for row in report.rows if row.macs]


def _plot_cost(axes: Axes, report: ReportData, color: str) -> None:
    macs = [row.macs for row in _layers(report)]
    width = 1.0 if len(macs) > 100 else 0.85
    axes.bar(range(1, len(macs) + 1), macs, width=width, color=color, alpha=0.55, lw=0)
    label = f"{figure_text(title(report))}: {EngFormatter(places=2)(report.macs)} in all"
    axes.plot([], [], color=color, lw=4, alpha=0.55, label=label)


def _plot_receptive_field(axes: Axes, report: ReportData, color: str) -> None:
    layers = [(i, row) for i, row in enumerate(_layers(report), 1) if row.receptive_field]
    positions = [i for i, _ in layers]
    sizes = [max(row.receptive_field) for _, row in layers]
    label = f"{figure_text(report.model)}, at most {max(sizes, default=0):,}"
    axes.step(positions, sizes, where="mid", color=color, lw=1.5, label=label)
    image_side = max(report.input_shapes[0][2:], default=0)
    label = f"the image of {figure_text(report.model)}, {image_side}"
    axes.axhline(image_side, color=color, lw=0.8, ls=":", label=label)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")


def _plot_effective_field(axes: Axes, path: str, field: NDArray[np.float32], report: ReportData) -> None:
    """The effective field as an image, and the theoretical field as a square if its border is inside."""
    axes.imshow(np.sqrt(field), cmap="magma", vmin=0, vmax=1, interpolation="nearest")
    h, w = field.shape
    output_size = report.module(path).output_shape[2:]
    rows, columns = report.pixels(path, [side // 2 for side in output_size])
    has_border = False
    if rows is not None and columns is not None:
        has_border = rows[0] > 0 or columns[0] > 0 or rows[1] < h - 1 or columns[1] < w - 1
        if has_border:
            corner = (columns[0] - 0.5, rows[0] - 0.5)
            width, height = columns[1] - columns[0] + 1, rows[1] - rows[0] + 1
            axes.add_patch(Rectangle(corner, width, height, fill=False, ec="cyan", lw=1.2))
    note = "" if has_border else ", beyond the image"
    size = format_size(extent.size for extent in report.receptive_field(path))
    axes.set_title(f"{figure_text(path)}: {size}{note}", fontsize=8.5)
    if not field.any():
        message = "no pixel influences it:\nits weights start at zero"
        axes.text(w / 2, h / 2, message, color="white", ha="center", va="center", fontsize=8)
    axes.set(xlim=(-0.5, w - 0.5), ylim=(h - 0.5, -0.5), xticks=[0, w - 1], yticks=[0, h - 1])
    axes.spines[:].set_visible(True)
