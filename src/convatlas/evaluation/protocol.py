"""Evaluate a classifier on a split: one fixed batch shape, every sample once, classes matched by name."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from convatlas.classifier import Classifier
from convatlas.data import Dataset, Split, open_dataset
from convatlas.data.loader import Fixed, batches, workers_for
from convatlas.data.preprocessing import Preprocessing, fit
from convatlas.errors import UsageError, unknown
from convatlas.evaluation import metrics


def logits_of(model: Callable[[Tensor], Tensor], source: Fixed, device: torch.device, workers: int = 0) -> metrics.Logits:
    """`model` takes uint8 images of one fixed batch shape. Returns (n, classes), float32, in the split's order."""
    with torch.inference_mode():
        found = [model(batch.images.to(device)).float().cpu() for _, batch in batches(source, 0, source.steps, workers)]
    return torch.cat(found).numpy()[: len(source.split)]


def scores(logits: metrics.Logits, labels: metrics.Labels) -> dict[str, float | int | None]:
    """The figures that every evaluation shows: percent, and the mean negative log-likelihood."""
    n = len(labels)
    return {
        "top1": metrics.percent(int(metrics.correct(logits, labels).sum()), n),
        "top5": metrics.percent(int(metrics.correct(logits, labels, 5).sum()), n) if logits.shape[1] >= 5 else None,
        "loss": metrics.negative_log_likelihood(logits, labels),
        "n": n,
    }


def document(logits: metrics.Logits, labels: metrics.Labels, classes: tuple[str, ...], crops: str = "center") -> dict[str, Any]:
    """The document of `eval`: the scores, the interval of top-1, per class, the confusion matrix."""
    table = metrics.confusion(logits, labels)
    per_class = [
        {"name": name, "n": int(row.sum()), "top1": metrics.percent(int(row[i]), int(row.sum())) if row.sum() else None}
        for i, (name, row) in enumerate(zip(classes, table, strict=True))
    ]
    return scores(logits, labels) | {
        "crops": crops,
        "models": 1,
        "top1_interval": metrics.interval(int(metrics.correct(logits, labels).sum()), len(labels)),
        "per_class": per_class,
        "confusion": table.tolist(),
    }


def evaluate(classifier: Classifier, data: str | None = None, split: str = "test", crops: str = "center") -> dict[str, Any]:
    """The document of `eval` (accuracies in percent): top1, top5 (None below five classes), loss, n, crops, models, top1_interval
    (95 %), per_class, confusion. `data` defaults to what the classifier was trained on.

    Raises UsageError for a split or protocol that does not exist, or when the data has classes that the classifier lacks.
    """
    if crops != "center":
        raise unknown("protocol", crops, ["center"])
    name = data or classifier.card.provenance.get("data")
    if not name:
        raise UsageError("this classifier does not say what it was trained on: name the data with --data")
    dataset = open_dataset(str(name), classifier.card.preprocessing.source, classifier.card.preprocessing.channels)
    chosen = _split(dataset, split)
    labels = _by_name(dataset, classifier)[chosen.labels]
    source = Fixed(chosen, _preprocessing(dataset, classifier), classifier.card.batch)
    logits = logits_of(classifier.logits, source, classifier.runtime.device, workers_for(chosen))
    return document(logits, labels, classifier.card.classes, crops)


def _split(dataset: Dataset, name: str) -> Split:
    if name not in dataset.splits:
        raise unknown("split", name, dataset.splits)
    return dataset.splits[name]


def _by_name(dataset: Dataset, classifier: Classifier) -> metrics.Labels:
    known = {name: i for i, name in enumerate(classifier.card.classes)}
    strangers = [name for name in dataset.classes if name not in known]
    if strangers:
        raise UsageError(
            f"{dataset.name} has {len(strangers)} classes that the classifier lacks, {strangers[0]!r} first: "
            f"expected only {', '.join(classifier.card.classes[:10])}"
        )
    return np.array([known[name] for name in dataset.classes])


def _preprocessing(dataset: Dataset, classifier: Classifier) -> Preprocessing:
    wanted = classifier.card.preprocessing
    if dataset.channels != wanted.channels:
        raise UsageError(f"{dataset.name} has {dataset.channels} channels, the classifier takes {wanted.channels}")
    return wanted if dataset.size == wanted.source else fit(wanted.channels, dataset.size, wanted.size)
