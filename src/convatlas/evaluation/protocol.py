"""Evaluate a classifier on a split: one fixed batch shape, every sample once, classes matched by name."""

from collections.abc import Callable
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from convatlas.classifier import Classifier
from convatlas.data import Dataset, Split, open_dataset
from convatlas.data.loader import Fixed, batches, workers_for
from convatlas.data.preprocessing import Preprocessing, Unread, fit
from convatlas.errors import UsageError, UserError, unknown
from convatlas.evaluation import metrics
from convatlas.runtime.ranks import ALONE, Ranks


class Answers(NamedTuple):
    """What a network says of a split, in the split's order, without the samples that cannot be read."""

    logits: metrics.Logits  # (n, classes), float32
    labels: metrics.Labels  # (n,)
    indices: metrics.Labels  # (n,): places in the split
    unread: list[Unread]


def answers(model: Callable[[Tensor], Tensor], source: Fixed, device: torch.device, workers: int = 0, ranks: Ranks = ALONE) -> Answers:
    """`model` takes uint8 images of one fixed batch shape; each rank asks it its share of the batches, and all get all answers, in the
    split's order. Raises UserError when nothing of the split can be read, or an answer is not finite."""
    logits, indices, unread = [], [], []
    with torch.inference_mode():
        for _, batch in batches(source, 0, source.steps, workers):
            inside = batch.indices.numpy()
            usable = ~np.isin(inside, [u.index for u in batch.unread])
            logits.append(model(batch.images.to(device)).float().cpu().numpy()[: len(inside)][usable])
            indices.append(inside[usable])
            unread += batch.unread
            ranks.beat()
    parts = ranks.gather((logits, indices, unread))
    logits, indices, unread = (list(chain(*part)) for part in zip(*parts, strict=True))
    found = np.concatenate(indices)
    unread.sort(key=lambda one: one.index)
    if not len(found):
        raise UserError(f"none of the {len(source.split):,} images can be read, {unread[0].file} first: {unread[0].reason}")
    order = np.argsort(found)
    found, answered = found[order], np.concatenate(logits)[order]
    if not np.isfinite(answered).all():
        raise UserError(
            f"the network answers with values that are not finite, first for {source.split.images.name(_first_odd(answered, found))}"
        )
    return Answers(answered, source.split.labels[found], found, unread)


def _first_odd(logits: metrics.Logits, indices: metrics.Labels) -> int:
    return int(indices[~np.isfinite(logits).all(axis=1)][0])


def scores(logits: metrics.Logits, labels: metrics.Labels) -> dict[str, Any]:
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
    (95 %), per_class, confusion, unread (files that could not be read, not counted). `data` defaults to what the classifier was trained on.

    Raises UsageError for a split or protocol that does not exist, or when the data has classes that the classifier lacks.
    """
    if crops != "center":
        raise unknown("protocol", crops, ["center"])
    name = data or classifier.card.provenance.get("data")
    if not name:
        raise UsageError("this classifier does not say what it was trained on: name the data with --data")
    dataset = open_dataset(str(name))
    chosen = _split(dataset, split)
    source = Fixed(chosen, _preprocessing(dataset, classifier), classifier.card.batch)
    found = answers(classifier.logits, source, classifier.runtime.device, workers_for(chosen))
    labels = _by_name(dataset, classifier)[found.labels]
    unread = [{"file": u.file, "reason": u.reason} for u in found.unread]
    return document(found.logits, labels, classifier.card.classes, crops) | {"unread": unread}


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
    if dataset.size is None:
        return wanted
    if dataset.channels != wanted.channels:
        raise UsageError(f"{dataset.name} has {dataset.channels} channels, the classifier takes {wanted.channels}")
    return wanted if dataset.size == wanted.source else fit(wanted.channels, dataset.size, wanted.size)
