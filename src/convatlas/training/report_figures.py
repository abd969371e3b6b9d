"""The figures of every report of a training: its curves, and grids of images."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from convatlas.data.task import Task
from convatlas.plotting import Tile, TileRow, needs_log_scale

SPLIT_NAMES = {"train": "training", "val": "validation"}
SPLIT_STYLES = (("train", "#0072b2", "-"), ("val", "#d55e00", "-"))  # of all eyes: Okabe and Ito


def validations(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The lines of the log with the scores of validations."""
    return _of_split(lines, "val")


def _of_split(lines: list[dict[str, Any]], split: str) -> list[dict[str, Any]]:
    return [line for line in lines if line.get("split") == split and "event" not in line]


def to_pixels(image: torch.Tensor) -> NDArray[np.uint8]:
    """An image (c, h, w) from 0 to 255 as pixels (h, w, c)."""
    return image.float().round().clamp(0, 255).byte().permute(1, 2, 0).numpy()


def plot_curves(lines: list[dict[str, Any]], task: Task) -> Figure:
    """Loss and the task's score by epoch, and the learning rate below; the best validation is marked."""
    figure = Figure(figsize=(9, 4.4), layout="constrained")
    axes = figure.subplot_mosaic([["loss", "score"], ["lr", "lr"]], height_ratios=(3, 1))
    validation = _points(lines, "val", task.score)
    best = max(validation, key=lambda point: point[1])[0] if validation else None
    same_score = task.train_score == task.score
    score_keys = {"train": task.train_score, "val": task.score}
    score_labels = {"train": task.train_score_label, "val": task.score_label}
    for panel, label in (
        ("loss", "loss"),
        ("score", f"{task.score_label} %" if same_score else "%"),
        ("lr", "learning rate"),
    ):
        axis = axes[panel]
        for split, color, style in SPLIT_STYLES:
            points = _points(lines, split, score_keys[split] if panel == "score" else panel)
            if points:
                epochs, values = zip(*points, strict=True)
                marker = "o" if len(points) < 40 else None
                name = SPLIT_NAMES[split]
                if panel == "score" and not same_score:
                    name = f"{name}, {score_labels[split]}"
                axis.plot(epochs, values, style, color=color, label=name, marker=marker, ms=3, lw=1.3)
        if panel == "loss" and needs_log_scale(
            y for split in SPLIT_NAMES for _, y in _points(lines, split, panel)
        ):
            axis.set_yscale("log")
            axis.yaxis.set_major_formatter("{x:g}")
            label = "loss, logarithmic"
        if best is not None and panel != "lr":
            axis.axvline(best, color="0.55", lw=0.9, ls=":", zorder=0)
        axis.set(xlabel="epoch", ylabel=label)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    if best is not None:
        score = dict(validation)[best]
        axes["score"].plot([best], [score], "*", color="#d55e00", ms=11, mec="white", zorder=5)
        title = f"best validation {score:.2f} % at epoch {best:.4g}"
        axes["score"].set_title(title, loc="right", color="0.35")
    axes["loss"].legend(frameon=False)
    if not same_score:
        axes["score"].legend(frameon=False)
    return figure


def _points(lines: list[dict[str, Any]], split: str, key: str) -> list[tuple[float, float]]:
    """(epoch, value) of each line of a split that has the value."""
    return [(line["epoch"], line[key]) for line in _of_split(lines, split) if line.get(key) is not None]


def in_rows(tiles: Sequence[Tile], columns: int = 8) -> list[TileRow]:
    return [TileRow(tiles[start : start + columns]) for start in range(0, len(tiles), columns)]
