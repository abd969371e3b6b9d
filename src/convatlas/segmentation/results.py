"""The scores and the JSON document of an evaluation of masks."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convatlas.segmentation.metrics import bootstrap_interval, class_iou, mean_iou, segmentation_scores
from convatlas.segmentation.task import MaskPredictions


def results_document(predictions: MaskPredictions, classes: Sequence[str]) -> dict[str, Any]:
    """The part of the document of `eval` that follows from predictions: the scores of all pixels as one, the
    interval of mean IU over images, the mean IU of always predicting the most frequent class, IU per class,
    the confusion matrix, and, where there are instances, the score of their objects."""
    confusion = predictions.confusions.sum(axis=0)
    pixels = confusion.sum(axis=1)
    majority = int(pixels.argmax())
    constant = np.zeros_like(confusion)
    constant[:, majority] = pixels
    ius = class_iou(confusion)
    return segmentation_scores(confusion) | {
        "n": len(predictions.indices),
        "loss": float(predictions.losses.sum() / max(int(confusion.sum()), 1)),
        "mean_iou_interval": bootstrap_interval(predictions.confusions),
        "majority_class": {"name": classes[majority], "mean_iou": float(mean_iou(constant))},
        "per_class": [
            {"name": name, "pixels": int(count), "iou": None if np.isnan(iou) else float(iou)}
            for name, count, iou in zip(classes, pixels, ius, strict=True)
        ],
        "confusion": confusion.tolist(),
        "instances": _instances_document(predictions.objects),
    }


def _instances_document(objects: NDArray[np.float64] | None) -> dict[str, Any] | None:
    """The score of the cell tracking challenge, SEG, its interval over images, and the number of objects;
    None without objects."""
    if objects is None or not objects[:, 1].any():
        return None
    _, n = objects.sum(axis=0)
    return {
        "seg": float(_mean_score(objects.sum(axis=0))),
        "seg_interval": bootstrap_interval(objects, _mean_score),
        "n": int(n),
    }


def _mean_score(objects: NDArray[Any]) -> NDArray[np.float64]:
    """(..., 2) -> (...): the mean score of an object; NaN without one."""
    with np.errstate(invalid="ignore"):
        scores: NDArray[np.float64] = np.true_divide(objects[..., 0], objects[..., 1])
    return scores


def image_ious(predictions: MaskPredictions) -> NDArray[np.float64]:
    """(n,): the mean IU of each image over the classes that it shows or is said to show."""
    return mean_iou(predictions.confusions)


def instances_sentence(instances: dict[str, Any]) -> str:
    """The score of a document's `instances` in words."""
    low, high = instances["seg_interval"]
    return (
        f"SEG {instances['seg']:.2f} %, 95 % interval {low:.2f} to {high:.2f}: the mean score of "
        f"{instances['n']:,} objects, as the cell tracking challenge counts"
    )


def baseline_sentence(document: dict[str, Any]) -> str:
    """Whether masks are better than always predicting the most frequent class, as far as the images can
    tell."""
    majority = document["majority_class"]
    low, high = document["mean_iou_interval"]
    constant = f"always predicting {majority['name']} (mean IU {majority['mean_iou']:.2f} %)"
    if low > majority["mean_iou"]:
        return f"better than {constant}"
    if high < majority["mean_iou"]:
        return f"worse than {constant}"
    return f"not known to be better than {constant}: the interval of {document['n']:,} images contains it"
