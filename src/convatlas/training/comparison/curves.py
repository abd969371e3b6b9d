"""The curves of several runs in one figure: one colour a run, validation bold, training thin and light."""

from collections.abc import Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from convatlas.errors import printable
from convatlas.formatting import RUN_LETTERS
from convatlas.plotting import LOG_RATIO, figure_png, needs_log_scale, plot_style
from convatlas.training.comparison.compare import MetricLine, RunRecord

# Okabe and Ito 2008, without yellow, which is pale on white
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999999")
MAX_FIELDS = 3  # differing fields in a legend
MAX_NAME = 44  # characters of a folder's name
MAX_MARKED = 40  # points of a curve that each have a marker


def draw_curves(records: Sequence[RunRecord], differences: Sequence[dict[str, Any]]) -> bytes:
    """Loss, score and learning rate by epoch, as far as each run has come.

    `differences` as in the document of `compare`.
    """
    names = [
        f"{letter}  {name}" for letter, name in zip(RUN_LETTERS, _names(records, differences), strict=False)
    ]
    columns = min(len(names), max(1, 120 // (max(map(len, names)) + 8)))
    rows = -(-len(names) // columns)
    with plot_style():
        figure = Figure(figsize=(9, 4.6 + 0.19 * rows), layout="constrained")
        panels = figure.subplot_mosaic([["loss", "score"], ["lr", "lr"]], height_ratios=(3, 1))
        colors = _run_colors(len(records))
        for key, label in (("loss", "loss"), ("score", _score_label(records)), ("lr", "learning rate")):
            axis = panels[key]
            axis.set(xlabel="epoch", ylabel=label)
            training = [_points(record.scores("train"), key) for record in records]
            validation = [_points(record.scores("val"), key) for record in records]
            if key == "lr":
                for i, (points, color) in enumerate(zip(training, colors, strict=True)):
                    _draw(axis, points, color=color, lw=1.6, ls=_dashes(training, i))
            else:
                axis.set_title("bold: validation; thin: training", color="0.35")
                for points, color in zip(training, colors, strict=True):
                    _draw(axis, points, color=color, lw=0.7, alpha=0.5)
                for points, color in zip(validation, colors, strict=True):
                    _draw(axis, points, color=color, lw=1.6, marker="o" if len(points) < MAX_MARKED else None)
            if key == "score":
                axis.set_title("bold: validation, its best with a star; thin: training", color="0.35")
                _mark_best(axis, validation, colors)
            else:
                _scale(axis, label, [*training, *validation])
        handles = [panels["loss"].plot([], [], color=color, lw=2.5)[0] for color in colors]
        legend = figure.legend(
            handles, names, loc="outside lower left", ncols=columns, frameon=False, fontsize=8
        )
        for text in legend.get_texts():
            text.set_parse_math(False)  # a folder may have a dollar in its name
        return figure_png(figure)


def _score_label(records: Sequence[RunRecord]) -> str:
    labels = {record.task.score_label for record in records}
    return f"{labels.pop()} %" if len(labels) == 1 else "score %"


def _points(lines: Sequence[MetricLine], key: str) -> list[tuple[float, float]]:
    return [(line.epoch, getattr(line, key)) for line in lines if getattr(line, key) is not None]


def _draw(axis: Axes, points: Sequence[tuple[float, float]], marker: str | None = None, **style: Any) -> None:
    x, y = zip(*points, strict=True) if points else ((), ())
    axis.plot(x, y, marker=marker or ("o" if len(points) == 1 else None), ms=2.8, **style)


def _dashes(curves: Sequence[Sequence[tuple[float, float]]], i: int) -> Any:
    """Line styles: where curves coincide, as those of one schedule do, each shows through."""
    alike = [
        j for j, other in enumerate(curves) if all(a == b for a, b in zip(curves[i], other, strict=False))
    ]
    return (5 * alike.index(i), (5, 5 * (len(alike) - 1))) if len(alike) > 1 else "-"


def _mark_best(axis: Axes, curves: Sequence[Sequence[tuple[float, float]]], colors: Sequence[Any]) -> None:
    for points, color in zip(curves, colors, strict=True):
        if points:
            epoch, top1 = max(points, key=lambda point: point[1])
            axis.plot([epoch], [top1], "*", color=color, ms=11, mec="white", zorder=5)


def _scale(axis: Axes, label: str, curves: Sequence[Sequence[tuple[float, float]]]) -> None:
    """Linear from 0; logarithmic where one run, or a spike, would flatten the others, and then said."""
    values = [y for points in curves for _, y in points]
    highest = [max(y for _, y in points) for points in curves if points]
    flattens = min(highest, default=0) > 0 and max(highest) > LOG_RATIO * min(highest)
    if flattens or needs_log_scale(values):
        axis.set_yscale("log")
        axis.set_ylim(bottom=max(axis.get_ylim()[0], min(highest) / 1000))
        axis.yaxis.set_major_formatter("{x:g}")
        axis.set_ylabel(f"{label}, logarithmic")
    else:
        axis.set_ylim(bottom=0)


def _names(records: Sequence[RunRecord], differences: Sequence[dict[str, Any]]) -> list[str]:
    """The folders' names, and the fields in which the runs differ where those are few."""
    fields = [field for field in differences if field["path"].startswith("run.")]
    too_long = any(len(_short(value)) > MAX_NAME // 2 for field in fields for value in field["values"])
    if len(fields) > MAX_FIELDS or too_long:
        fields = []
    names = []
    for position, record in enumerate(records):
        folder = printable(record.path.resolve().name)
        if len(folder) > MAX_NAME:
            folder = f"{folder[: MAX_NAME - 10]}…{folder[-9:]}"  # the run's id comes last
        values = ", ".join(f"{_last(field['path'])} {_short(field['values'][position])}" for field in fields)
        names.append(f"{folder}: {values}" if values else folder)
    return names


def _last(path: str) -> str:
    """`run.recipe.optimizer.lr` -> `optimizer.lr`, `run.seed` -> `seed`."""
    return ".".join(path.removeprefix("run.").removeprefix("recipe.").split(".")[-2:])


def _short(value: Any) -> str:
    return "-" if value is None else printable(value)


def _run_colors(count: int) -> list[Any]:
    """Eight that all eyes distinguish; for more runs, steps of one scale."""
    if count <= len(COLORS):
        return list(COLORS[:count])
    return [*matplotlib.colormaps["viridis"].resampled(count)(range(count))]
