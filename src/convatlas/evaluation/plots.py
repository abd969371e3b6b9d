"""The figures of an evaluation: the confusion matrix, the reliability diagram, and the top-1 of an ensemble's
subsets."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from convatlas.evaluation.metrics import interval
from convatlas.plotting import figure_png, figure_text
from convatlas.storage.atomic import atomic_write

MAX_NAMED_CLASSES = 40  # more names would overlap
MAX_CELLS = 200  # of more, a line of the diagonal would be thinner than a pixel
MAX_NAME = 28  # characters of a class
NUMBERED_SIDE = 8.0  # inches, of a matrix without names
MAX_COUNTED_CLASSES = 20  # of more, the counts in the cells would be too small to read


def plot_confusion(table: NDArray[np.int64], classes: Sequence[str], unit: str = "images") -> Figure:
    """The matrix (classes, classes): rows are the true classes, columns the predicted ones, colours the
    shares of a row. In the cells stand counts of images, or percentages of pixels (`unit`). Up to 40 classes
    are named, more are numbered; of more than 200, a cell shows the largest share of several neighbouring
    classes.
    """
    num_classes = len(classes)
    is_named = num_classes <= MAX_NAMED_CLASSES
    side = min(max(2.2 + 0.42 * num_classes, 3.6), 14) if is_named else NUMBERED_SIDE
    figure = Figure(figsize=(side + 1.2, side), layout="constrained")
    axis = figure.subplots()
    shares = 100 * table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    cells, block = largest_of_blocks(shares, MAX_CELLS)
    extent = (-0.5, block * len(cells) - 0.5, block * len(cells) - 0.5, -0.5)
    image = axis.imshow(cells, cmap="Blues", vmin=0, vmax=100, extent=extent, interpolation="nearest")
    label = f"% of the {unit} of the true class"
    if block > 1:
        label += f" (largest of {block}x{block} classes)"
    figure.colorbar(image, ax=axis, label=label, shrink=0.7, aspect=30)
    axis.spines[:].set_visible(False)
    axis.set(
        xlabel="predicted", ylabel="true", xlim=(-0.5, num_classes - 0.5), ylim=(num_classes - 0.5, -0.5)
    )
    if is_named:
        names = [
            figure_text(name if len(name) <= MAX_NAME else f"{name[: MAX_NAME - 1]}…") for name in classes
        ]
        axis.set_xticks(range(num_classes), names, rotation=45, ha="right", rotation_mode="anchor")
        axis.set_yticks(range(num_classes), names)
    else:
        axis.set(xlabel="predicted class, by number from 0", ylabel="true class")
    if num_classes <= MAX_COUNTED_CLASSES:
        size = 7 if num_classes > 5 else 9
        for (i, j), count in np.ndenumerate(table):
            if count:
                color = "white" if shares[i, j] > 50 else "black"
                text = f"{count:,}" if unit == "images" else f"{shares[i, j]:.0f}"
                axis.text(j, i, text, ha="center", va="center", fontsize=size, color=color)
    return figure


def largest_of_blocks(shares: NDArray[np.float64], max_cells: int) -> tuple[NDArray[np.float64], int]:
    """At most `max_cells` rows and columns, each the largest of a block; and the side of a block."""
    block = -(-len(shares) // max_cells)
    padding = -len(shares) % block
    padded = np.pad(shares, (0, padding))
    cells = len(padded) // block
    return padded.reshape(cells, block, cells, block).max((1, 3)), block


def plot_reliability(bins: Sequence[dict[str, Any]], error: float) -> Figure:
    """Accuracy by confidence with 95 % intervals, above the share of the samples in each bin.

    `bins` are those of the document of `eval`, `error` is the expected calibration error in percent.
    """
    figure = Figure(figsize=(3.9, 4.6), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    width = bins[0]["high"] - bins[0]["low"]
    filled = [bin for bin in bins if bin["n"]]
    centers = [(bin["low"] + bin["high"]) / 2 for bin in filled]
    accuracies = np.array([bin["accuracy"] for bin in filled])
    intervals = np.array([interval(round(bin["accuracy"] * bin["n"] / 100), bin["n"]) for bin in filled])
    upper.plot([0, 100], [0, 100], color="0.5", lw=1, ls="--", label="accuracy = confidence")
    upper.bar(centers, accuracies, width * 0.9, color="tab:blue", alpha=0.6, label="accuracy, 95 % interval")
    error_bars = np.abs(intervals.T - accuracies)
    upper.errorbar(centers, accuracies, error_bars, fmt="none", ecolor="0.25", elinewidth=0.9, capsize=2)
    title = f"expected calibration error {error:.2f} %"
    upper.set(ylabel="top-1 %", xlim=(0, 100), ylim=(0, 102), title=title)
    total = sum(bin["n"] for bin in bins)
    lower.bar(centers, [100 * bin["n"] / total for bin in filled], width * 0.9, color="0.6")
    lower.set(xlabel="confidence %", ylabel="% of images")
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    return figure


def plot_subsets(subsets: Sequence[dict[str, Any]]) -> Figure:
    """Top-1 by the number of networks: a dot for each subset, a line through the means.

    `subsets` are those of the document of `eval`.
    """
    figure = Figure(figsize=(3.9, 2.9), layout="constrained")
    axis = figure.subplots()
    sizes = sorted({len(subset["members"]) for subset in subsets})
    top1_of_size = [
        [subset["top1"] for subset in subsets if len(subset["members"]) == size] for size in sizes
    ]
    axis.plot(sizes, [np.mean(top1) for top1 in top1_of_size], color="tab:blue", lw=1.2)
    for size, top1 in zip(sizes, top1_of_size, strict=True):
        axis.plot([size] * len(top1), top1, "o", color="tab:blue", ms=4, alpha=0.5, mew=0)
    axis.set(xlabel="networks averaged", ylabel="top-1 %", xticks=sizes)
    return figure


def write_figure(path: Path, figure: Figure) -> None:
    """Write a figure as a PNG. Raises OSError when the disk refuses."""
    atomic_write(path, figure_png(figure))
