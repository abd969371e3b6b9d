"""The pictures of an evaluation: who is taken for whom, whether it is right as often as it says, what each subset of an ensemble gives."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from convatlas.evaluation.metrics import interval
from convatlas.storage.atomic import atomic_write

STYLE: Any = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.titlesize": 8, "figure.dpi": 110}


def confusion(table: NDArray[np.int64], classes: Sequence[str]) -> Figure:
    """Rows are the true classes, columns the predicted ones; colours are shares of a row."""
    k = len(classes)
    side = min(2.2 + 0.42 * k, 14)
    figure = Figure(figsize=(side + 0.8, side), layout="constrained")
    axis = figure.subplots()
    share = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    axis.imshow(share, cmap="Blues", vmin=0, vmax=1)
    axis.spines[:].set_visible(False)
    if k <= 40:
        axis.set_xticks(range(k), classes, rotation=45, ha="right", rotation_mode="anchor")
        axis.set_yticks(range(k), classes)
    if k <= 20:
        for (i, j), count in np.ndenumerate(table):
            if count:
                axis.text(j, i, f"{count:,}", ha="center", va="center", fontsize=7, color="white" if share[i, j] > 0.5 else "black")
    axis.set(xlabel="predicted", ylabel="true")
    return figure


def reliability(bins: Sequence[dict[str, Any]], error: float) -> Figure:
    """`bins` as in the document of `eval`: accuracy by confidence with 95 % intervals, and how many samples are where."""
    figure = Figure(figsize=(3.9, 4.6), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    width, filled = bins[0]["high"] - bins[0]["low"], [one for one in bins if one["n"]]
    middles, accuracy = [(one["low"] + one["high"]) / 2 for one in filled], np.array([one["accuracy"] for one in filled])
    reach = np.array([interval(round(one["accuracy"] * one["n"] / 100), one["n"]) for one in filled])
    upper.plot([0, 100], [0, 100], color="0.5", lw=1, ls="--", label="as often as it says")
    upper.bar(middles, accuracy, width * 0.9, color="tab:blue", alpha=0.6, label="right, with 95 % interval")
    bars = np.abs(reach.T - accuracy)
    upper.errorbar(middles, accuracy, bars, fmt="none", ecolor="0.25", elinewidth=0.9, capsize=2)
    upper.set(ylabel="top-1 %", xlim=(0, 100), ylim=(0, 102), title=f"expected calibration error {error:.2f} %")
    total = sum(one["n"] for one in bins)
    lower.bar(middles, [100 * one["n"] / total for one in filled], width * 0.9, color="0.6")
    lower.set(xlabel="confidence %", ylabel="% of images")
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    return figure


def subsets(found: Sequence[dict[str, Any]]) -> Figure:
    """`found` as in the document of `eval`: a dot each subset, a line through the means."""
    figure = Figure(figsize=(3.9, 2.9), layout="constrained")
    axis = figure.subplots()
    sizes = sorted({len(one["members"]) for one in found})
    top1 = [[one["top1"] for one in found if len(one["members"]) == size] for size in sizes]
    axis.plot(sizes, [np.mean(some) for some in top1], color="tab:blue", lw=1.2)
    for size, some in zip(sizes, top1, strict=True):
        axis.plot([size] * len(some), some, "o", color="tab:blue", ms=4, alpha=0.5, mew=0)
    axis.set(xlabel="networks averaged", ylabel="top-1 %", xticks=sizes)
    return figure


def save(path: Path, figure: Figure) -> None:
    """As PNG. Raises OSError when the disk refuses."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    atomic_write(path, buffer.getvalue())
