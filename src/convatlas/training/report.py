"""report.md of a run and its figures: a training batch, the curves, the confusion matrix, the most confident
mistakes with Grad-CAM, the first layer's filters.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray

from convatlas.analysis import analyze
from convatlas.classifier import Classifier
from convatlas.errors import printable
from convatlas.evaluation.metrics import SampleScores
from convatlas.evaluation.plots import plot_confusion, plot_reliability, write_figure
from convatlas.evaluation.predictions import Predictions
from convatlas.evaluation.results import majority_sentence
from convatlas.markdown import markdown_template
from convatlas.plotting import image_png, plot_style
from convatlas.storage.atomic import atomic_write
from convatlas.training.context import TrainContext
from convatlas.training.warnings import run_warnings
from convatlas.visualization.filters import draw_filters, first_filters
from convatlas.visualization.grad_cam import grad_cam
from convatlas.visualization.plots import overlay

MAX_MISTAKES = 24
MAX_EXPLAINED = 8  # mistakes with Grad-CAM
EXPLAIN_MACS = 20e9  # multiply-adds that their forward passes may take together
BATCH_IMAGES = 32
TITLE_LENGTH = 48

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
        majority_sentence=majority_sentence(results),
        warnings=run_warnings(ctx.run, ctx.dataset),
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
    return _image_grid(images.numpy(), [classes[target] for target in batch.targets[:BATCH_IMAGES]])


def _curves(lines: list[dict[str, Any]]) -> Figure:
    figure = Figure(figsize=(9, 2.8), layout="constrained")
    labels = {"loss": "loss", "top1": "top-1 %", "lr": "learning rate"}
    for axis, (key, label) in zip(figure.subplots(1, 3), labels.items(), strict=True):
        for split, color in (("train", "tab:blue"), ("val", "tab:orange")):
            points = [
                (line["epoch"], line[key]) for line in _of_split(lines, split) if line.get(key) is not None
            ]
            if points:
                epochs, values = zip(*points, strict=True)
                marker = "o" if len(points) < 40 else None
                axis.plot(epochs, values, color=color, label=split, marker=marker, ms=2.5, lw=1)
        axis.set(xlabel="epoch", ylabel=label)
        if key != "lr":
            axis.legend(frameon=False)
    return figure


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
    titles = [
        f"{classes[samples.predictions[i]]} {samples.confidences[i]:.2f}\nis {classes[samples.labels[i]]}"
        for i in mistakes
    ]
    return _image_grid(images.numpy(), titles)


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
    predicted = samples.predictions[mistakes]
    true = samples.labels[mistakes]
    tiles: list[NDArray[np.uint8]] = []
    titles: list[str] = []
    for labels, prefix in ((predicted, "as"), (true, "is")):
        cams = grad_cam(classifier.model, normalized, torch.from_numpy(labels))
        tiles += [overlay(image, cam).transpose(2, 0, 1) for image, cam in zip(images, cams, strict=True)]
        titles += [f"{prefix} {classes[label]}" for label in labels]
    return _image_grid(np.stack(tiles), titles, columns=len(mistakes))


def _image_grid(images: NDArray[np.uint8], titles: Sequence[str], columns: int = 8) -> Figure:
    rows = -(-len(images) // columns)
    figure = Figure(figsize=(1.25 * columns, 1.5 * rows), layout="constrained")
    for axis in figure.subplots(rows, columns, squeeze=False).flat:
        axis.axis("off")
    for axis, image, title in zip(figure.axes, images, titles, strict=False):
        axis.imshow(
            image.transpose(1, 2, 0).squeeze(), cmap="gray", vmin=0, vmax=255, interpolation="nearest"
        )
        axis.set_title(title if len(title) <= TITLE_LENGTH else title[: TITLE_LENGTH - 3] + "...", pad=2)
    return figure
