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
from convatlas.evaluation.metrics import SampleScores, score_samples
from convatlas.evaluation.plots import plot_confusion, plot_reliability, write_figure
from convatlas.evaluation.predictions import Predictions
from convatlas.evaluation.results import majority_sentence
from convatlas.markdown import markdown_template
from convatlas.plotting import CELL_SIDE, Tile, TileRow, draw_tiles, image_png, plot_style
from convatlas.storage.atomic import atomic_write
from convatlas.training.context import TrainContext
from convatlas.training.report_figures import in_rows, plot_curves, to_pixels, validations
from convatlas.training.warnings import run_warnings
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
Indices = NDArray[np.int64]


def write_report(
    ctx: TrainContext,
    lines: list[dict[str, Any]],
    predictions: Predictions,
    results: dict[str, Any],
    classifier: Classifier,
) -> Path:
    """Draw the figures into the run's folder and write report.md; returns its path.

    `lines` are those of metrics.jsonl before the test; `predictions` and `results` are of the test split.
    """
    samples = score_samples(predictions.logits, predictions.labels)
    folder = ctx.folder.path
    classes = tuple(printable(name) for name in ctx.run.content.classes)
    hashes = ctx.test.split.content_hashes
    contents = [bytes(hashes[i]) for i in predictions.indices] if len(hashes) else []
    mistakes = most_confident_mistakes(samples, contents)
    first_layer, filters = first_filters(classifier.model)
    with plot_style():
        write_figure(folder / "batch.png", _batch_figure(ctx, classes))
        write_figure(folder / "curves.png", plot_curves(lines, ctx.task))
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
    text = markdown_template("convatlas.training", "classification_report.md.jinja").render(
        run=ctx.run,
        results=results,
        majority_sentence=majority_sentence(results),
        warnings=run_warnings(ctx.run, ctx.dataset),
        last=validations(lines)[-1],
        best=max(validations(lines), key=lambda line: line["top1"]),
        has_mistakes=bool(len(mistakes)),
        first_layer=first_layer,
    )
    path = folder / "report.md"
    atomic_write(path, text.encode())
    return path


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
    return draw_tiles(in_rows(tiles), title)


def most_confident_mistakes(samples: SampleScores, contents: Sequence[bytes] = ()) -> Indices:
    """Positions in the predictions, the most confident mistake first.

    `contents` are the content hashes of the samples: of equal ones with one label, the first is taken.
    """
    wrong = np.flatnonzero(samples.predictions != samples.labels)
    wrong = wrong[np.argsort(-samples.confidences[wrong], kind="stable")]
    if contents:
        first = {(contents[i], samples.labels[i]): i for i in reversed(wrong.tolist())}
        wrong = wrong[np.isin(wrong, list(first.values()))]
    return wrong[:MAX_MISTAKES]


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
    return draw_tiles(in_rows(tiles, MISTAKE_COLUMNS), title, MISTAKE_SIDE)


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
