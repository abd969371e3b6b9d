"""The scores and the JSON document of an evaluation, computed from the values per sample."""

from typing import Any

import numpy as np

from convatlas.evaluation import metrics
from convatlas.evaluation.calibration import calibration_error, reliability
from convatlas.evaluation.metrics import SampleScores


def classification_scores(samples: SampleScores) -> dict[str, Any]:
    """The scores that every evaluation has: top1 and top5 in percent (top5 None below five classes), loss
    (the mean negative log-likelihood) and n."""
    n = len(samples.labels)
    top5 = metrics.percent(int(samples.correct(5).sum()), n) if samples.num_classes >= 5 else None
    return {
        "top1": metrics.percent(int(samples.correct().sum()), n),
        "top5": top5,
        "loss": metrics.negative_log_likelihood(samples),
        "n": n,
    }


def top1_interval(samples: SampleScores) -> tuple[float, float]:
    """The 95 % Wilson interval of the top-1 accuracy, in percent."""
    return metrics.interval(int(samples.correct().sum()), len(samples.labels))


def results_document(
    samples: SampleScores, classes: tuple[str, ...], crops: str = "center", num_models: int = 1
) -> dict[str, Any]:
    """The part of the document of `eval` that follows from predictions: the scores, the interval of top-1,
    balanced accuracy, macro F1, the accuracy of always predicting the largest class, calibration, accuracy
    per class and the confusion matrix."""
    confusion = metrics.confusion(samples)
    f1 = metrics.f1_scores(confusion)
    per_class = [
        {
            "name": name,
            "n": int(row.sum()),
            "top1": metrics.percent(int(row[i]), int(row.sum())) if row.sum() else None,
            "f1": None if np.isnan(f1[i]) else float(f1[i]),
        }
        for i, (name, row) in enumerate(zip(classes, confusion, strict=True))
    ]
    bins = reliability(samples)
    majority, majority_share = metrics.majority_class(confusion)
    return classification_scores(samples) | {
        "crops": crops,
        "models": num_models,
        "top1_interval": top1_interval(samples),
        "balanced_accuracy": metrics.balanced_accuracy(confusion),
        "macro_f1": metrics.macro_f1(confusion),
        "majority_class": {"name": classes[majority], "share": majority_share},
        "ece": calibration_error(bins),
        "reliability": [bin._asdict() for bin in bins],
        "per_class": per_class,
        "confusion": confusion.tolist(),
    }


def majority_sentence(document: dict[str, Any]) -> str:
    """Whether a document of `eval` is better than always predicting the largest class, as far as its images
    can tell."""
    majority = document["majority_class"]
    low, high = document["top1_interval"]
    share = majority["share"]
    constant = f"always predicting the largest class, {majority['name']} ({share:.2f} %)"
    if low > share:
        return f"better than {constant}"
    if high < share:
        return f"worse than {constant}"
    return f"not known to be better than {constant}: the interval of {document['n']:,} images contains it"
