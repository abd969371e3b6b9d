"""report.md of a run that labels pixels, and its figures: a training batch with its masks, the curves, the
confusion matrix of the pixels, and the best, the median and the worst test images.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from convatlas.classifier import Classifier
from convatlas.data.mask import IGNORE
from convatlas.data.mask_pictures import overlay
from convatlas.errors import printable
from convatlas.evaluation.plots import plot_confusion, write_figure
from convatlas.markdown import markdown_template
from convatlas.plotting import Tile, TileRow, draw_tiles, plot_style
from convatlas.segmentation.predict import predict_mask
from convatlas.segmentation.results import baseline_sentence, image_ious
from convatlas.segmentation.task import MaskPredictions
from convatlas.storage.atomic import atomic_write
from convatlas.training.context import TrainContext
from convatlas.training.report_figures import plot_curves, to_pixels, validations
from convatlas.training.warnings import run_warnings

BATCH_IMAGES = 6
CASES = 4  # images of each kind
CASE_SIDE = 200  # pixels


def write_report(
    ctx: TrainContext,
    lines: list[dict[str, Any]],
    predictions: MaskPredictions,
    results: dict[str, Any],
    classifier: Classifier,
) -> Path:
    """Draw the figures into the run's folder and write report.md; returns its path.

    `lines` are those of metrics.jsonl before the test; `predictions` and `results` are of the test split.
    """
    folder = ctx.folder.path
    classes = tuple(printable(name) for name in ctx.run.content.classes)
    background = int(np.array(results["confusion"]).sum(axis=1).argmax())
    cases = choose_cases(image_ious(predictions))
    with plot_style():
        write_figure(folder / "batch.png", _batch_figure(ctx, background))
        write_figure(folder / "curves.png", plot_curves(lines, ctx.task))
        confusion = plot_confusion(np.array(results["confusion"]), classes, unit="pixels")
        write_figure(folder / "confusion.png", confusion)
        cases_figure = _cases_figure(ctx, cases, predictions, classifier, classes, background)
        write_figure(folder / "cases.png", cases_figure)
    text = markdown_template("convatlas.training", "segmentation_report.md.jinja").render(
        run=ctx.run,
        results=results,
        baseline_sentence=baseline_sentence(results),
        warnings=run_warnings(ctx.run, ctx.dataset),
        last=validations(lines)[-1],
        best=max(validations(lines), key=lambda line: line["mean_iou"]),
    )
    path = folder / "report.md"
    atomic_write(path, text.encode())
    return path


def choose_cases(ious: NDArray[np.float64]) -> dict[str, list[int]]:
    """The positions of the best, the median and the worst images, the better first; none twice."""
    order = np.argsort(-ious, kind="stable").tolist()
    count = min(CASES, max(1, len(order) // 3))
    middle = (len(order) - count) // 2
    cases = {"best": order[:count], "median": order[middle : middle + count], "worst": order[-count:]}
    return cases if len(order) >= 3 else {"all": order}


def _batch_figure(ctx: TrainContext, background: int) -> Figure:
    """The tiles of a batch, and over the pixels that the network labels their classes."""
    batch = ctx.train[0]
    assert not isinstance(batch, Exception)
    margin = ctx.run.content.preprocessing.margin
    images = [to_pixels(image) for image in batch.images[:BATCH_IMAGES]]
    targets = batch.targets if batch.targets.dim() == 3 else batch.targets[:, 0].byte()
    height, width = images[0].shape[:2]
    inner = slice(margin, height - margin), slice(margin, width - margin)
    labelled = [
        Tile(overlay(image[inner], target.numpy(), background))
        for image, target in zip(images, targets[:BATCH_IMAGES], strict=True)
    ]
    title = f"A training batch as the network sees it, tiles of {width}x{height} pixels"
    rows = [TileRow([Tile(image) for image in images], "image"), TileRow(labelled, "target")]
    note = f"the network labels the inner {inner[1].stop - margin}x{inner[0].stop - margin} pixels"
    return draw_tiles(rows, title, CASE_SIDE, note if margin else "")


def _cases_figure(
    ctx: TrainContext,
    cases: dict[str, list[int]],
    predictions: MaskPredictions,
    classifier: Classifier,
    classes: Sequence[str],
    background: int,
) -> Figure:
    ious = image_ious(predictions)
    masks = ctx.test.split.masks
    assert masks is not None
    rows = []
    for name, positions in cases.items():
        images, targets, predicted = [], [], []
        for position in positions:
            index = int(predictions.indices[position])
            image = ctx.test.preprocessing.read_scaled(ctx.test.split.images.image(index))
            mask = masks.mask(index).classes
            size = (mask.shape[0], mask.shape[1])
            pixels = ctx.test.split.images.image(index).decode(
                ctx.test.preprocessing.channels, size, ctx.test.preprocessing.value_range
            )
            device = classifier.runtime.device
            prediction = predict_mask(classifier.logits, image.to(device), ctx.test.preprocessing, size)
            images.append(Tile(pixels))
            names = [classes[i] for i in np.unique(mask) if i not in (background, IGNORE)]
            targets.append(Tile(overlay(pixels, mask, background), ", ".join(names)))
            wrong = (prediction != mask) & (mask != IGNORE)
            title = f"IU {ious[position]:.1f} %, {100 * wrong.mean():.1f} % wrong"
            predicted.append(Tile(overlay(pixels, prediction, background), title))
        rows += [TileRow(images, f"{name}\nimage"), TileRow(targets, "true"), TileRow(predicted, "predicted")]
    title = "Test images by their mean IU, and the share of their pixels that is wrong"
    note = "colours are classes; white: pixels that are not scored"
    return draw_tiles(rows, title, CASE_SIDE, note)
