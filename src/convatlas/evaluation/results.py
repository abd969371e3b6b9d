"""Scores and the document of an evaluation, from predictions."""

from typing import Any

from convatlas.evaluation import metrics
from convatlas.evaluation.calibration import calibration_error, reliability


def classification_scores(logits: metrics.Logits, labels: metrics.Labels) -> dict[str, Any]:
    """The figures that every evaluation shows: percent, and the mean negative log-likelihood."""
    n = len(labels)
    return {
        "top1": metrics.percent(int(metrics.correct(logits, labels).sum()), n),
        "top5": metrics.percent(int(metrics.correct(logits, labels, 5).sum()), n) if logits.shape[1] >= 5 else None,
        "loss": metrics.negative_log_likelihood(logits, labels),
        "n": n,
    }


def results_document(
    logits: metrics.Logits, labels: metrics.Labels, classes: tuple[str, ...], crops: str = "center", models: int = 1
) -> dict[str, Any]:
    """The document of `eval`: the scores, the interval of top-1, calibration, per class, the confusion matrix."""
    table = metrics.confusion(logits, labels)
    per_class = [
        {"name": name, "n": int(row.sum()), "top1": metrics.percent(int(row[i]), int(row.sum())) if row.sum() else None}
        for i, (name, row) in enumerate(zip(classes, table, strict=True))
    ]
    bins = reliability(logits, labels)
    return classification_scores(logits, labels) | {
        "crops": crops,
        "models": models,
        "top1_interval": metrics.interval(int(metrics.correct(logits, labels).sum()), len(labels)),
        "ece": calibration_error(bins),
        "reliability": [one._asdict() for one in bins],
        "per_class": per_class,
        "confusion": table.tolist(),
    }
