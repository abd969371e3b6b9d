"""The curves of several runs in one figure: one colour a run, validation bold, training thin and light."""

from collections.abc import Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from convatlas.errors import printable
from convatlas.formatting import RUN_LETTERS
from convatlas.plotting import figure_png, plot_style
from convatlas.training.comparison.compare import MetricLine, RunRecord

MAX_FIELDS = 3  # differing fields in a legend
MAX_NAME = 44  # characters of a folder's name
LOG_RATIO = 20  # between the runs' highest values, from which on the axis is logarithmic
MAX_MARKED = 40  # points of a curve that each have a marker


def draw_curves(records: Sequence[RunRecord], differences: Sequence[dict[str, Any]]) -> bytes:
    """Loss, top-1 and learning rate by epoch, as far as each run has come.

    `differences` as in the document of `compare`.
    """
    names = [
        f"{letter}  {name}" for letter, name in zip(RUN_LETTERS, _names(records, differences), strict=False)
    ]
    columns = min(len(names), max(1, 150 // (max(map(len, names)) + 8)))
    rows = -(-len(names) // columns)
    with plot_style():
        figure = Figure(figsize=(10.5, 3.1 + 0.19 * rows), layout="constrained")
        panels = figure.subplots(1, 3)
        colors = _run_colors(len(records))
        for axis, key, label in zip(
            panels, ("loss", "top1", "lr"), ("loss", "top-1 %", "learning rate"), strict=True
        ):
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
            if key != "top1":
                _scale(axis, [max(y for _, y in points) for points in training if points])
        handles = [panels[0].plot([], [], color=color, lw=2.5)[0] for color in colors]
        legend = figure.legend(
            handles, names, loc="outside lower left", ncols=columns, frameon=False, fontsize=8
        )
        for text in legend.get_texts():
            text.set_parse_math(False)  # a folder may have a dollar in its name
        return figure_png(figure)


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


def _scale(axis: Axes, highest: Sequence[float]) -> None:
    """Linear from 0; logarithmic where one run would flatten another."""
    if min(highest, default=0) > 0 and max(highest) > LOG_RATIO * min(highest):
        axis.set_yscale("log")
        axis.set_ylim(bottom=max(axis.get_ylim()[0], min(highest) / 1000))
        axis.yaxis.set_major_formatter("{x:g}")
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
    """Ten that are easy to distinguish; for more runs, steps of one scale."""
    if count <= 10:
        return [f"C{i}" for i in range(count)]
    return [*matplotlib.colormaps["turbo"].resampled(count)(range(count))]
