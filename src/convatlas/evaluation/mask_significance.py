"""Two networks that label pixels, on the same images: the difference of their mean IU, and its interval."""

from typing import Any

import numpy as np

from convatlas.evaluation.predictions import PredictionsMetadata
from convatlas.segmentation.metrics import mean_iou
from convatlas.segmentation.task import MaskPredictions

RESAMPLES = 1000


def mask_pairing_problem(first: PredictionsMetadata, second: PredictionsMetadata) -> str | None:
    """The reason why the two cannot be paired, in a few words; None if they can."""
    if first.data_sha256 != second.data_sha256:
        return f"other data: {first.data} and {second.data}"
    if first.split != second.split:
        return f"other splits: {first.split} and {second.split}"
    return None


def paired_mask_comparison(first: MaskPredictions, second: MaskPredictions, seed: int = 0) -> dict[str, Any]:
    """Compare two networks on the images that both could read, matched by their index in the split.

    Returns `n`; `unshared`, the images that only one of them could read; the `difference` (second minus
    first) of mean IU and its 95 % `interval`, a percentile bootstrap over images, in points; `first_better`
    and `second_better`, the images on which the one or the other has the higher mean IU.
    """
    _, rows, other_rows = np.intersect1d(
        first.indices, second.indices, assume_unique=True, return_indices=True
    )
    a = first.confusions[rows]
    b = second.confusions[other_rows]
    n = len(rows)
    draws = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=RESAMPLES).astype(np.float64)
    differences = mean_iou(_sums(draws, b)) - mean_iou(_sums(draws, a))
    low, high = np.nanquantile(differences, (0.025, 0.975))
    by_image = mean_iou(b) - mean_iou(a)
    return {
        "n": n,
        "unshared": len(first.indices) + len(second.indices) - 2 * n,
        "difference": float(mean_iou(b.sum(axis=0)) - mean_iou(a.sum(axis=0))),
        "interval": (float(low), float(high)),
        "first_better": int((by_image < 0).sum()),
        "second_better": int((by_image > 0).sum()),
    }


def _sums(draws: np.ndarray[Any, Any], confusions: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """(resamples, classes, classes), float64, which holds the counts exactly."""
    n, classes, _ = confusions.shape
    sums: np.ndarray[Any, Any] = draws @ confusions.reshape(n, -1).astype(np.float64)
    return sums.reshape(-1, classes, classes)
