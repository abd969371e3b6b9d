"""report.md of a run and its figures: a training batch, the curves, the confusion matrix, the most confident
mistakes with Grad-CAM, the first layer's filters.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from convatlas.analysis import analyze
from convatlas.classifier import Classifier
from convatlas.errors import printable
from convatlas.evaluation.metrics import SampleScores
from convatlas.evaluation.plots import plot_confusion, plot_reliability, write_figure
from convatlas.evaluation.predictions import Predictions
from convatlas.markdown import markdown_template
from convatlas.plotting import CELL_SIDE, Tile, TileRow, draw_tiles, image_png, needs_log_scale, plot_style
from convatlas.storage.atomic import atomic_write
from convatlas.training.context import TrainContext
from convatlas.visualization.feature_maps import last_conv_layer
from convatlas.visualization.filters import draw_filters, first_filters
from convatlas.visualization.grad_cam import grad_cam
from convatlas.visualization.plots import overlay

MAX_MISTAKES = 24
MAX_EXPLAINED = 8  # mistakes with Grad-CAM
EXPLAIN_MACS = 20e9  # multiply-adds that their forward passes may take together
BATCH_IMAGES = 32
MISTAKE_COLUMNS = 6
MISTAKE_SIDE = 150  # pixels: room for the names of two classes
SPLIT_NAMES = {"train": "training", "val": "validation"}
SPLIT_STYLES = (("train", "#0072b2", "-"), ("val", "#d55e00", "-"))  # of all eyes: Okabe and Ito

Indices = NDArray[np.int64]


def write_report(
    ctx: TrainContext,
    lines: list[dict[str, Any]],
    predictions: Predictions,
    samples: SampleScores,
    results: dict[str, Any],
    classifier: Classifier,
) -> Path:
    """Draw the figures into the run's folder and write report.md; returns its path.

    `lines` are those of metrics.jsonl before the test; `predictions`, `samples` and `results` are of the test
    split.
    """
    folder = ctx.folder.path
    classes = tuple(printable(name) for name in ctx.run.content.classes)
    mistakes = _most_confident_mistakes(samples)
    first_layer, filters = first_filters(classifier.model)
    with plot_style():
        write_figure(folder / "batch.png", _batch_figure(ctx, classes))
        write_figure(folder / "curves.png", _curves(lines))
        write_figure(folder / "confusion.png", plot_confusion(np.array(results["confusion"]), classes))
        write_figure(folder / "reliability.png", plot_reliability(results["reliability"], results["ece"]))
        if len(mistakes):
            write_figure(
                folder / "mistakes.png", _mistakes_figure(ctx, mistakes, predictions, samples, classes)
            )
            write_figure(
                folder / "grad_cam.png",
                _grad_cam_figure(ctx, mistakes, predictions, samples, classes, classifier),
            )
    atomic_write(folder / "filters.png", image_png(draw_filters(filters)))
    text = markdown_template("convatlas.training", "report.md.jinja").render(
        run=ctx.run,
        results=results,
        last_top1=last_validation(lines),
        best=max(_of_split(lines, "val"), key=lambda line: line["top1"]),
        has_mistakes=bool(len(mistakes)),
        first_layer=first_layer,
    )
    path = folder / "report.md"
    atomic_write(path, text.encode())
    return path


def last_validation(lines: list[dict[str, Any]]) -> float:
    return float(_of_split(lines, "val")[-1]["top1"])


def _of_split(lines: list[dict[str, Any]], split: str) -> list[dict[str, Any]]:
    return [line for line in lines if line.get("split") == split and "event" not in line]


def _batch_figure(ctx: TrainContext, classes: Sequence[str]) -> Figure:
    batch = ctx.train[0]
    assert not isinstance(batch, Exception)
    images = ctx.train.augmented(batch.images, batch.indices, 0)[:BATCH_IMAGES]
    tiles = [
        Tile(to_pixels(image), classes[target])
        for image, target in zip(images, batch.targets[:BATCH_IMAGES], strict=True)
    ]
    height, width = images.shape[2:]
    title = f"A training batch as the network sees it, {width}x{height} pixels: the first {len(tiles)} images"
    return draw_tiles(_in_rows(tiles), title)


def to_pixels(image: torch.Tensor) -> NDArray[np.uint8]:
    """An image (c, h, w) from 0 to 255 as pixels (h, w, c)."""
    return image.float().round().clamp(0, 255).byte().permute(1, 2, 0).numpy()


def _curves(lines: list[dict[str, Any]]) -> Figure:
    """Loss and top-1 by epoch, and the learning rate below; the best validation top-1 is marked."""
    figure = Figure(figsize=(9, 4.4), layout="constrained")
    axes = figure.subplot_mosaic([["loss", "top1"], ["lr", "lr"]], height_ratios=(3, 1))
    validation = _points(lines, "val", "top1")
    best = max(validation, key=lambda point: point[1])[0] if validation else None
    for key, label in (("loss", "loss"), ("top1", "top-1 %"), ("lr", "learning rate")):
        axis = axes[key]
        for split, color, style in SPLIT_STYLES:
            points = _points(lines, split, key)
            if points:
                epochs, values = zip(*points, strict=True)
                marker = "o" if len(points) < 40 else None
                axis.plot(
                    epochs, values, style, color=color, label=SPLIT_NAMES[split], marker=marker, ms=3, lw=1.3
                )
        if key == "loss" and needs_log_scale(
            y for split in SPLIT_NAMES for _, y in _points(lines, split, key)
        ):
            axis.set_yscale("log")
            axis.yaxis.set_major_formatter("{x:g}")
            label = "loss, logarithmic"
        if best is not None and key != "lr":
            axis.axvline(best, color="0.55", lw=0.9, ls=":", zorder=0)
        axis.set(xlabel="epoch", ylabel=label)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    if best is not None:
        top1 = dict(validation)[best]
        axes["top1"].plot([best], [top1], "*", color="#d55e00", ms=11, mec="white", zorder=5)
        axes["top1"].set_title(f"best validation {top1:.2f} % at epoch {best:.4g}", loc="right", color="0.35")
    axes["loss"].legend(frameon=False)
    return figure


def _points(lines: list[dict[str, Any]], split: str, key: str) -> list[tuple[float, float]]:
    """(epoch, value) of each line of a split that has the value."""
    return [(line["epoch"], line[key]) for line in _of_split(lines, split) if line.get(key) is not None]


def _most_confident_mistakes(samples: SampleScores) -> Indices:
    """Positions in the predictions, the most confident mistake first."""
    wrong = np.flatnonzero(samples.predictions != samples.labels)
    return wrong[np.argsort(-samples.confidences[wrong], kind="stable")][:MAX_MISTAKES]


def _mistakes_figure(
    ctx: TrainContext,
    mistakes: Indices,
    predictions: Predictions,
    samples: SampleScores,
    classes: Sequence[str],
) -> Figure:
    images, _ = ctx.test.preprocessing.load_batch(ctx.test.split.images, predictions.indices[mistakes])
    tiles = [
        Tile(to_pixels(image), mistake_title(samples, int(i), classes))
        for image, i in zip(images, mistakes, strict=True)
    ]
    title = "The most confident mistakes on the test images"
    return draw_tiles(_in_rows(tiles, MISTAKE_COLUMNS), title, MISTAKE_SIDE)


def mistake_title(samples: SampleScores, position: int, classes: Sequence[str]) -> str:
    predicted, true = classes[samples.predictions[position]], classes[samples.labels[position]]
    return f"predicted {predicted} ({100 * samples.confidences[position]:.0f}\u00a0%),\ntrue: {true}"


def _grad_cam_figure(
    ctx: TrainContext,
    mistakes: Indices,
    predictions: Predictions,
    samples: SampleScores,
    classes: Sequence[str],
    classifier: Classifier,
) -> Figure:
    """Grad-CAM of the first mistakes, for both classes; of fewer where a pass is expensive."""
    macs = analyze(classifier.model, ctx.test.preprocessing.shape).macs
    mistakes = mistakes[: max(1, min(MAX_EXPLAINED, int(EXPLAIN_MACS / max(macs, 1))))]
    images, _ = ctx.test.preprocessing.load_batch(ctx.test.split.images, predictions.indices[mistakes])
    normalized = classifier.normalizer(images.to(classifier.runtime.device))
    layer = last_conv_layer(classifier.model, ctx.test.preprocessing.shape)
    rows = [TileRow([Tile(to_pixels(image)) for image in images], "image")]
    for labels, word in ((samples.predictions[mistakes], "predicted"), (samples.labels[mistakes], "true")):
        cams = grad_cam(classifier.model, normalized, torch.from_numpy(labels), layer)
        tiles = [
            Tile(overlay(image, cam, CELL_SIDE), classes[label] + ("" if cam.any() else ", no evidence"))
            for image, cam, label in zip(images, cams, labels, strict=True)
        ]
        rows.append(TileRow(tiles, f"{word}\nclass"))
    height, width = cams.shape[1:]
    title = f"Grad-CAM of the most confident mistakes, {layer}, maps of {width}x{height}"
    note = "bright: raises the score of the class that is named; each map is scaled by its own maximum"
    return draw_tiles(rows, title, note=note)


def _in_rows(tiles: Sequence[Tile], columns: int = 8) -> list[TileRow]:
    return [TileRow(tiles[start : start + columns]) for start in range(0, len(tiles), columns)]
