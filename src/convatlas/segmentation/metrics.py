"""Scores of masks of class ids, from a confusion matrix. Long, Shelhamer, Darrell 2015, arXiv:1411.4038,
sec. 5.

With n_ij the pixels of class i that are predicted as class j, and t_i = sum_j n_ij:

    pixel accuracy          sum_i n_ii / sum_i t_i
    mean accuracy           1 / n_cl  sum_i n_ii / t_i
    mean IU                 1 / n_cl  sum_i n_ii / (t_i + sum_j n_ji - n_ii)
    frequency weighted IU   1 / sum_k t_k  sum_i t_i n_ii / (t_i + sum_j n_ji - n_ii)

The pixel error of other papers is 100 minus the pixel accuracy.

Unstated: what n_cl counts where a class is absent. Ours: the mean accuracy is over the classes with target
pixels; the mean IU is over the classes that are targets or predicted, so a class that is only predicted
counts with 0. All scores are NaN where no pixel counts.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Ids = NDArray[np.integer] | Tensor
Counts = NDArray[np.int64] | NDArray[np.float64]
Confusion = Counts  # float64 where they are sums of resamples
Scores = NDArray[np.float64]


def confusion_matrix(
    predictions: Ids, targets: Ids, num_classes: int, ignore: int | None = 255
) -> NDArray[np.int64]:
    """(classes, classes): the number of pixels of the row's class that are predicted as the column's.

    `predictions` and `targets` are class ids of equal shape. Pixels whose target is `ignore` do not count,
    whatever their prediction. Raises ValueError for shapes that differ, for values that are no integers, and
    for a counted id outside 0 ... num_classes - 1.
    """
    predicted = _as_array(predictions, "predictions")
    target = _as_array(targets, "targets")
    if predicted.shape != target.shape:
        raise ValueError(
            f"predictions have shape {predicted.shape} but targets {target.shape}: expected equal shapes"
        )
    if ignore is not None:
        counted = target != ignore
        predicted = predicted[counted]
        target = target[counted]
    for ids, name in ((predicted, "predictions"), (target, "targets")):
        if ids.size and not 0 <= ids.min() <= ids.max() < num_classes:
            wrong = ids.min() if ids.min() < 0 else ids.max()
            raise ValueError(f"{name} hold the id {wrong}: expected class ids from 0 to {num_classes - 1}")
    cells = target.ravel().astype(np.int64) * num_classes + predicted.ravel().astype(np.int64)
    return np.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes)


def _as_array(ids: Ids, name: str) -> NDArray[np.integer]:
    array = ids.detach().cpu().numpy() if isinstance(ids, Tensor) else np.asarray(ids)
    if not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"{name} are {array.dtype}: expected integer class ids")
    return array


def segmentation_scores(confusion: Confusion) -> dict[str, float]:
    """The four scores of one confusion matrix (classes, classes), in percent."""
    return {
        "pixel_accuracy": float(pixel_accuracy(confusion)),
        "mean_accuracy": float(mean_accuracy(confusion)),
        "mean_iou": float(mean_iou(confusion)),
        "frequency_weighted_iou": float(frequency_weighted_iou(confusion)),
    }


def pixel_accuracy(confusion: Confusion) -> Scores:
    """(..., classes, classes) -> (...), in percent."""
    return 100 * _ratio(_diagonal(confusion).sum(-1), confusion.sum((-2, -1)))


def mean_accuracy(confusion: Confusion) -> Scores:
    """(..., classes, classes) -> (...), in percent, over the classes with target pixels."""
    return 100 * _mean_of_present(_ratio(_diagonal(confusion), confusion.sum(-1)))


def class_iou(confusion: Confusion) -> Scores:
    """(..., classes, classes) -> (..., classes): the intersection over the union of each class, in percent;
    NaN for a class that is neither a target nor predicted."""
    union = confusion.sum(-1) + confusion.sum(-2) - _diagonal(confusion)
    return 100 * _ratio(_diagonal(confusion), union)


def mean_iou(confusion: Confusion) -> Scores:
    """(..., classes, classes) -> (...), in percent, over the classes that are targets or predicted."""
    return _mean_of_present(class_iou(confusion))


def frequency_weighted_iou(confusion: Confusion) -> Scores:
    """(..., classes, classes) -> (...), in percent; a class weighs as much as it has target pixels."""
    pixels = confusion.sum(-1)
    weighted = pixels * np.nan_to_num(class_iou(confusion))
    return _ratio(weighted.sum(-1), pixels.sum(-1))


def bootstrap_interval(
    counts: Counts,
    score: Callable[[Counts], Scores] = mean_iou,
    seed: int = 0,
    resamples: int = 1000,
) -> tuple[float, float]:
    """The 95 % percentile bootstrap interval over images of a score of summed counts.

    `counts`: (images, ...), such as the confusions of the images (images, classes, classes). `score` takes
    (resamples, ...), as the functions of this file do. Resamples whose score is not finite, without a counted
    pixel, are left out. Raises ValueError for no image.
    """
    n = len(counts)
    if n == 0:
        raise ValueError("an interval over images needs at least one image, not 0")
    draws = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=resamples)
    # in float64, which BLAS multiplies; integers below 2^53 stay exact
    sums = draws.astype(np.float64) @ counts.reshape(n, -1).astype(np.float64)
    scores = score(sums.reshape(resamples, *counts.shape[1:]))
    scores = scores[np.isfinite(scores)]
    if not scores.size:
        return float("nan"), float("nan")
    low, high = np.quantile(scores, (0.025, 0.975))
    return float(low), float(high)


def _diagonal(confusion: Confusion) -> Confusion:
    return confusion.diagonal(axis1=-2, axis2=-1)


def _ratio(parts: Confusion, wholes: Confusion) -> Scores:
    """parts / wholes; NaN where the whole is 0."""
    with np.errstate(invalid="ignore"):
        return np.true_divide(parts, wholes)


def _mean_of_present(values: Scores) -> Scores:
    """The mean over the last axis without NaN; NaN where nothing is left."""
    present = ~np.isnan(values)
    return _ratio(np.where(present, values, 0).sum(-1), present.sum(-1))
