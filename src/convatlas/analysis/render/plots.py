"""A report as plots: cost and receptive field along depth, and effective receptive fields."""

import itertools
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
from convatlas.plotting import figure_png, plot_style

COLORS = ("#0072b2", "#d55e00")  # one for each network: of all eyes, Okabe and Ito
MARKERS = ("o", "^")
MAX_STAGE_NAMES = 30  # on the axis
MAX_FIELDS = 4  # effective fields in a row
MIN_FIELD_DIVISOR = 12  # a field smaller than this fraction of the image is hard to see
MAX_MACS = 50e9  # of all forward passes for the effective fields
CURVES_HEIGHT, FIELDS_HEIGHT = 5.2, 2.9  # inches
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
    panel.suptitle("Cost and receptive field: " + " against ".join(map(title, reports)), fontsize=10)
    cost_axes, field_axes = panel.subplots(2, 1, sharex=True)
    for report, color, marker in zip(reports, COLORS, MARKERS, strict=False):
        _plot_cost(cost_axes, report, color)
        _plot_receptive_field(field_axes, report, color, marker)
    cost_axes.set(ylabel="multiply-adds of a layer")
    cost_axes.yaxis.set_major_formatter(EngFormatter())
    field_axes.set(ylabel="receptive field (pixels)")
    cost_axes.set_xlim(0.4, max(len(_layers(report)) for report in reports) + 0.6)
    if len(reports) == 1:
        _mark_stages((cost_axes, field_axes), reports[0])
    else:
        field_axes.set_xlabel("layers with weights, in the order in which they run")
        cost_axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    for axes in (cost_axes, field_axes):
        handles, labels = axes.get_legend_handles_labels()
        shown = dict(zip(labels, handles, strict=True))  # a label of both networks once
        axes.legend(
            shown.values(),
            shown.keys(),
            frameon=False,
            fontsize=8,
            loc="lower left",
            bbox_to_anchor=(0, 1),
            ncols=3,
            borderaxespad=0.2,
        )


def _mark_stages(all_axes: Sequence[Axes], report: ReportData) -> None:
    """Bands behind the layers of each stage, every second one grey, with the stages' names on the axis."""
    bands = stage_bands(report)
    for number, (_, first, last) in enumerate(bands):
        if number % 2:
            for axes in all_axes:
                axes.axvspan(first - 0.5, last + 0.5, color="0.94", lw=0, zorder=0)
    room = len(_layers(report)) / MAX_STAGE_NAMES
    ticks: list[tuple[float, str]] = []
    for name, first, last in bands:  # narrow bands beside a named one have no name
        center = (first + last) / 2
        if not ticks or center - ticks[-1][0] >= room:
            ticks.append((center, name))
    all_axes[-1].set_xticks(
        *zip(*ticks, strict=True), rotation=40, ha="right", rotation_mode="anchor", fontsize=8
    )
    all_axes[-1].set_xlabel("layers with weights, in the order in which they run, by stage")


def stage_bands(report: ReportData) -> list[tuple[str, int, int]]:
    """Name, first and last layer of each stage that has layers with weights; the first layer is 1."""
    bands: list[tuple[str, int, int]] = []
    stages = [row.path for row in report.stages]
    for number, row in enumerate(_layers(report), 1):
        name = next((s for s in stages if row.path == s or row.path.startswith(f"{s}.")), row.path)
        first = number
        if bands and bands[-1][0] == name:
            first = bands.pop()[1]
        bands.append((name or report.model, first, number))
    return bands


def _draw_fields(panel: SubFigure, report: ReportData, maps: EffectiveFields) -> None:
    panel.suptitle(
        f"{report.model}: effective receptive field of the centre unit. Brightness: root of the mean "
        "gradient by each pixel (random weights and images); square: theoretical field",
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
    label = f"{title(report)}: {EngFormatter(places=2)(report.macs)} in all"
    axes.plot([], [], color=color, lw=4, alpha=0.55, label=label)


def _plot_receptive_field(axes: Axes, report: ReportData, color: str, marker: str) -> None:
    """A line through the largest field so far, and a point for each layer: those of short branches lie below
    the line."""
    layers = [(i, row) for i, row in enumerate(_layers(report), 1) if row.receptive_field]
    positions = [i for i, _ in layers]
    sizes = [max(row.receptive_field) for _, row in layers]
    label = f"{report.model}: largest up to this layer, at most {max(sizes, default=0):,}"
    axes.step(positions, largest_so_far(sizes), where="mid", color=color, lw=1.5, label=label)
    if any(size < largest for size, largest in zip(sizes, largest_so_far(sizes), strict=True)):
        axes.plot(positions, sizes, marker, color=color, ms=3, alpha=0.6, mew=0, label="each layer")
    image_side = max(report.input_shapes[0][2:], default=0)
    axes.axhline(image_side, color=color, lw=0.8, ls=":", label=f"side of the image, {image_side}")
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")


def largest_so_far(sizes: Sequence[int]) -> list[int]:
    return list(itertools.accumulate(sizes, max))


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
    axes.set_title(f"{path}: {size}{note}", fontsize=8.5)
    if not field.any():
        message = "no pixel influences it:\nits weights start at zero"
        axes.text(w / 2, h / 2, message, color="white", ha="center", va="center", fontsize=8)
    axes.set(xlim=(-0.5, w - 0.5), ylim=(h - 0.5, -0.5), xticks=[0, w - 1], yticks=[0, h - 1])
    axes.spines[:].set_visible(True)
