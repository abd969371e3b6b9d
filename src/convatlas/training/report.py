"""report.md and its pictures: a batch as the network sees it, the curves, the confusion matrix, the most confident mistakes and where in
them the network found its answer, the first layer's filters."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from convatlas.analysis import analyze
from convatlas.classifier import Classifier
from convatlas.data.loading.eval_batches import EvalBatches
from convatlas.errors import printable
from convatlas.evaluation.metrics import log_probabilities
from convatlas.evaluation.plots import STYLE, confusion, reliability, save
from convatlas.evaluation.predict import Predictions
from convatlas.storage.atomic import atomic_write
from convatlas.training.run import Run
from convatlas.visualization import first_filters, grad_cam, plots
from convatlas.visualization.filters import draw_filters

MISTAKES = 24
SEEN, DEAR = 8, 20e9  # mistakes that are looked into; multiply-adds of their passes forward
BATCH = 32


def write(
    folder: Path,
    run: Run,
    lines: list[dict[str, Any]],
    batch: tuple[Tensor, Tensor],
    test: EvalBatches,
    found: Predictions,
    result: dict[str, Any],
    classifier: Classifier,
) -> Path:
    """Draw the pictures into `folder` and write report.md; returns its path. `result` is the document of `eval` on the test split,
    `found` what `classifier` answered there."""
    classes = tuple(printable(name) for name in run.content.classes)
    with matplotlib.rc_context(STYLE):
        save(folder / "batch.png", _grid(batch[0][:BATCH].numpy(), [classes[t] for t in batch[1][:BATCH]]))
        save(folder / "curves.png", _curves(lines))
        save(folder / "confusion.png", confusion(np.array(result["confusion"]), classes))
        save(folder / "reliability.png", reliability(result["reliability"], result["ece"]))
        wrong = _mistakes(found.logits, found.labels)
        if len(wrong):
            save(folder / "mistakes.png", _mistake_grid(wrong, found, test, classes))
            save(folder / "grad_cam.png", _evidence(wrong, found, test, classes, classifier))
    atomic_write(folder / "filters.png", plots.png(draw_filters(first_filters(classifier.model)[1])))
    path = folder / "report.md"
    atomic_write(path, _markdown(run, lines, result, classes, bool(len(wrong)), first_filters(classifier.model)[0]).encode())
    return path


def _markdown(run: Run, lines: list[dict[str, Any]], result: dict[str, Any], classes: Sequence[str], mistakes: bool, first: str) -> str:
    low, high = result["top1_interval"]
    best = max((line for line in lines if line["split"] == "val"), key=lambda line: line["top1"])
    top5 = f", top-5 {result['top5']:.2f} %" if result["top5"] is not None else ""
    recipe = run.recipe
    notes = [f"- unstated, ours: {text}" for text in recipe.unstated]
    notes += [f"- substituted: {what}: {why}" for what, why in recipe.substituted.items()]
    notes += [f"- {note}" for note in run.notes]
    rows = "\n".join(
        f"| {_cell(name)} | {row['n']:,} | {row['top1']:.2f} |" if row["n"] else f"| {_cell(name)} | 0 | - |"
        for name, row in zip(classes, result["per_class"], strict=True)
    )
    parts = [
        f"# {run.model.name} on {_cell(run.data.name)}",
        f"**Test accuracy {result['top1']:.2f} %** (95 % interval {low:.2f} to {high:.2f}, {result['n']:,} images, one centre crop)"
        f"{top5}; mean negative log-likelihood {result['loss']:.4f}. The test split was read once, after the last step.",
        f"Validation: {last_validation(lines):.2f} % at the last step, whose weights were kept; best {best['top1']:.2f} % at epoch "
        f"{best['epoch']:.4g}.",
        "| | |\n|---|---|\n"
        f"| network | {run.model.name}, edition {run.model.edition} |\n"
        f"| recipe | {recipe.name} ({recipe.source}) |\n"
        f"| batch, steps | {recipe.batch}, {run.steps:,} |\n"
        f"| images | {', '.join(f'{n:,} {split}' for split, n in run.content.counts.items())} |\n"
        f"| precision | {run.precision} |\n| run | `{run.id[:8]}`, seed {run.seed} |",
        "\n".join(notes),
        "## A batch as the network sees it\n\n![A batch of training images with their classes](batch.png)",
        "## Curves\n\n![Loss, accuracy and learning rate by epoch](curves.png)",
        "## Confusion\n\nRows are the true classes, columns the predicted ones.\n\n![Confusion matrix of the test split](confusion.png)",
        f"| class | images | top-1 % |\n|---|---:|---:|\n{rows}",
        "## Calibration\n\nWhether it is right as often as it says: the expected calibration error is "
        f"{result['ece']:.2f} %.\n\n![Top-1 by confidence](reliability.png)",
    ]
    if mistakes:
        parts.append(
            "## The most confident mistakes\n\nPredicted class and its probability, then the true class.\n\n![Mistakes](mistakes.png)"
        )
        parts.append(
            "Where in the first of them the evidence lies (Grad-CAM): above for the class that was predicted, below for the true one.\n\n"
            "![Grad-CAM of mistakes](grad_cam.png)"
        )
    parts.append(f"## The filters of {first}\n\nGrey is zero.\n\n![Filters of the first layer](filters.png)")
    return "\n\n".join(part for part in parts if part) + "\n"


def last_validation(lines: list[dict[str, Any]]) -> float:
    return float([line for line in lines if line["split"] == "val"][-1]["top1"])


def _cell(text: str) -> str:
    return printable(text).replace("|", "\\|").replace("<", "&lt;")


def _curves(lines: list[dict[str, Any]]) -> Figure:
    figure = Figure(figsize=(9, 2.8), layout="constrained")
    for axis, key, label in zip(figure.subplots(1, 3), ("loss", "top1", "lr"), ("loss", "top-1 %", "learning rate"), strict=True):
        for split, colour in (("train", "tab:blue"), ("val", "tab:orange")):
            chosen = [line for line in lines if line["split"] == split and line.get(key) is not None]
            if chosen:
                marker = "o" if len(chosen) < 40 else None
                axis.plot([c["epoch"] for c in chosen], [c[key] for c in chosen], color=colour, label=split, marker=marker, ms=2.5, lw=1)
        axis.set(xlabel="epoch", ylabel=label)
        if key != "lr":
            axis.legend(frameon=False)
    return figure


def _mistakes(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> NDArray[np.int64]:
    sure = np.exp(log_probabilities(logits).max(axis=1))
    wrong = np.flatnonzero(logits.argmax(axis=1) != labels)
    return wrong[np.argsort(-sure[wrong], kind="stable")][:MISTAKES]


def _mistake_grid(wrong: NDArray[np.int64], found: Predictions, test: EvalBatches, classes: Sequence[str]) -> Figure:
    images, _ = test.preprocessing.load_batch(test.split.images, found.indices[wrong])
    probabilities = np.exp(log_probabilities(found.logits[wrong]))
    titles = [f"{classes[p.argmax()]} {p.max():.2f}\nis {classes[found.labels[i]]}" for i, p in zip(wrong, probabilities, strict=True)]
    return _grid(images.numpy(), titles)


def _evidence(wrong: NDArray[np.int64], found: Predictions, test: EvalBatches, classes: Sequence[str], classifier: Classifier) -> Figure:
    """Grad-CAM of the first mistakes, for both classes; of fewer where a pass is dear, so that it takes a second."""
    macs = analyze(classifier.model, test.preprocessing.shape).macs
    wrong = wrong[: max(1, min(SEEN, int(DEAR / max(macs, 1))))]
    images, _ = test.preprocessing.load_batch(test.split.images, found.indices[wrong])
    standard = classifier.normalizer(images.to(classifier.runtime.device))
    predicted, true = found.logits[wrong].argmax(axis=1), found.labels[wrong]
    seen, titles = [], []
    for asked, title in ((predicted, "as {}"), (true, "is {}")):
        maps = grad_cam(classifier.model, standard, torch.from_numpy(asked))
        seen += [plots.overlay(image, one).transpose(2, 0, 1) for image, one in zip(images, maps, strict=True)]
        titles += [title.format(classes[label]) for label in asked]
    return _grid(np.stack(seen), titles, columns=len(wrong))


def _grid(images: NDArray[np.uint8], titles: Sequence[str], columns: int = 8) -> Figure:
    rows = -(-len(images) // columns)
    figure = Figure(figsize=(1.25 * columns, 1.5 * rows), layout="constrained")
    for axis in figure.subplots(rows, columns, squeeze=False).flat:
        axis.axis("off")
    for axis, image, title in zip(figure.axes, images, titles, strict=False):
        axis.imshow(image.transpose(1, 2, 0).squeeze(), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        axis.set_title(title if len(title) <= 48 else title[:45] + "...", pad=2)
    return figure
