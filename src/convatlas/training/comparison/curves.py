"""The curves of several runs in one picture: one colour a run, validation bold, training thin and light."""

import io
import warnings
from collections.abc import Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from convatlas.errors import printable
from convatlas.evaluation.plots import STYLE
from convatlas.formatting import RUN_LETTERS
from convatlas.training.comparison.compare import MetricLine, RunRecord

TOLD = 3  # differing fields that a legend has room for
NAME = 44  # characters of a folder's name
APART = 20  # between the runs' highest values
FEW = 40  # points of a curve that are marked one by one


def draw_curves(pasts: Sequence[RunRecord], differences: Sequence[dict[str, Any]]) -> bytes:
    """Loss, top-1 and learning rate by epoch, as far as each run has come. `differences` as in the document of `compare`."""
    names = [f"{letter}  {name}" for letter, name in zip(RUN_LETTERS, _names(pasts, differences), strict=False)]
    columns = min(len(names), max(1, 150 // (max(map(len, names)) + 8)))
    rows = -(-len(names) // columns)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10.5, 3.1 + 0.19 * rows), layout="constrained")
        panels = figure.subplots(1, 3)
        colours = _colours(len(pasts))
        for axis, key, label in zip(panels, ("loss", "top1", "lr"), ("loss", "top-1 %", "learning rate"), strict=True):
            axis.set(xlabel="epoch", ylabel=label)
            training = [_points(past.scores("train"), key) for past in pasts]
            validation = [_points(past.scores("val"), key) for past in pasts]
            if key == "lr":
                for i, (points, colour) in enumerate(zip(training, colours, strict=True)):
                    _draw(axis, points, color=colour, lw=1.6, ls=_dashes(training, i))
            else:
                axis.set_title("bold: validation; thin: training", color="0.35")
                for points, colour in zip(training, colours, strict=True):
                    _draw(axis, points, color=colour, lw=0.7, alpha=0.5)
                for points, colour in zip(validation, colours, strict=True):
                    _draw(axis, points, color=colour, lw=1.6, marker="o" if len(points) < FEW else None)
            if key != "top1":
                _scale(axis, [max(y for _, y in points) for points in training if points])
        handles = [panels[0].plot([], [], color=colour, lw=2.5)[0] for colour in colours]
        legend = figure.legend(handles, names, loc="outside lower left", ncols=columns, frameon=False, fontsize=8)
        for text in legend.get_texts():
            text.set_parse_math(False)  # a folder may have a dollar in its name
        buffer = io.BytesIO()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing")  # a folder's name in a script that the font lacks shows as boxes
            figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _points(lines: Sequence[MetricLine], key: str) -> list[tuple[float, float]]:
    return [(line.epoch, getattr(line, key)) for line in lines if getattr(line, key) is not None]


def _draw(axis: Axes, points: Sequence[tuple[float, float]], marker: str | None = None, **style: Any) -> None:
    x, y = zip(*points, strict=True) if points else ((), ())
    axis.plot(x, y, marker=marker or ("o" if len(points) == 1 else None), ms=2.8, **style)


def _dashes(curves: Sequence[Sequence[tuple[float, float]]], i: int) -> Any:
    """Solid; of curves that lie upon each other, as those of runs with one schedule do, each shows in turn."""
    alike = [j for j, other in enumerate(curves) if all(a == b for a, b in zip(curves[i], other, strict=False))]
    return (5 * alike.index(i), (5, 5 * (len(alike) - 1))) if len(alike) > 1 else "-"


def _scale(axis: Axes, highest: Sequence[float]) -> None:
    """Linear from 0, logarithmic where one run would flatten another; what falls to nothing then leaves the panel."""
    if min(highest, default=0) > 0 and max(highest) > APART * min(highest):
        axis.set_yscale("log")
        axis.set_ylim(bottom=max(axis.get_ylim()[0], min(highest) / 1000))
        axis.yaxis.set_major_formatter("{x:g}")
    else:
        axis.set_ylim(bottom=0)


def _names(pasts: Sequence[RunRecord], differences: Sequence[dict[str, Any]]) -> list[str]:
    """The folders' names, and what differs between the runs where that is little."""
    told = [one for one in differences if one["path"].startswith("run.")]
    if len(told) > TOLD or any(len(_short(value)) > NAME // 2 for one in told for value in one["values"]):
        told = []
    names = []
    for i, past in enumerate(pasts):
        folder = printable(past.path.resolve().name)
        folder = folder if len(folder) <= NAME else f"{folder[: NAME - 10]}…{folder[-9:]}"  # the run's id comes last
        what = ", ".join(f"{_last(one['path'])} {_short(one['values'][i])}" for one in told)
        names.append(f"{folder}: {what}" if what else folder)
    return names


def _last(path: str) -> str:
    """`run.recipe.optimizer.lr` -> `optimizer.lr`, `run.seed` -> `seed`."""
    return ".".join(path.removeprefix("run.").removeprefix("recipe.").split(".")[-2:])


def _short(value: Any) -> str:
    return "-" if value is None else printable(value)


def _colours(count: int) -> list[Any]:
    """Ten that are told apart easily; of more, steps of one scale."""
    return [f"C{i}" for i in range(count)] if count <= 10 else [*matplotlib.colormaps["turbo"].resampled(count)(range(count))]
