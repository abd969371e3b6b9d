"""Two networks on the same samples: which samples each predicts correctly, the difference of their
accuracies, and whether it could be due to chance."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from convatlas.evaluation import metrics
from convatlas.evaluation.predictions import Predictions, PredictionsMetadata

Z = 1.959963984540054  # of a 95 % interval


class Correctness(NamedTuple):
    """Which samples a network predicts correctly. With 1,000 classes this takes a thousandth of the memory of
    the logits."""

    metadata: PredictionsMetadata
    indices: metrics.Labels  # (n,), ascending
    correct: NDArray[np.bool_]  # (n,)


def correctness(predictions: Predictions) -> Correctness:
    """The top-1 correctness of predictions that have metadata."""
    assert predictions.metadata is not None
    correct = metrics.correct(predictions.logits, predictions.labels)
    return Correctness(predictions.metadata, predictions.indices, correct)


def pairing_problem(first: Correctness, second: Correctness) -> str | None:
    """The reason why the two cannot be paired, in a few words; None if they can."""
    a, b = first.metadata, second.metadata
    if a.data_sha256 != b.data_sha256:
        return (
            f"other data: {a.data} and {b.data}"
            if a.data != b.data
            else f"the content of {a.data} had changed"
        )
    if a.split != b.split:
        return f"other splits: {a.split} and {b.split}"
    if a.crops != b.crops:
        return f"other crops: {a.crops} and {b.crops}"
    if not np.isin(first.indices, second.indices).any():
        return "no sample that both could read"
    return None


def paired_comparison(first: Correctness, second: Correctness) -> dict[str, Any]:
    """Compare two networks on the samples that both predicted, as in `compare_matched_pairs`.

    Samples are matched by their index in the split; `pairing_problem` says whether equal indices are the same
    sample.
    """
    _, first_rows, second_rows = np.intersect1d(
        first.indices, second.indices, assume_unique=True, return_indices=True
    )
    num_unshared = len(first.indices) + len(second.indices) - 2 * len(first_rows)
    return compare_matched_pairs(first.correct[first_rows], second.correct[second_rows], num_unshared)


def compare_matched_pairs(
    first: NDArray[np.bool_], second: NDArray[np.bool_], num_unshared: int = 0
) -> dict[str, Any]:
    """Compare the correctness (n,) of two networks on the same samples.

    Returns `n`; `unshared`, the samples that only one of them could read; how many of the n samples `both`,
    `neither`, `only_first` and `only_second` predicted correctly; the `difference` (second minus first) and
    its 95 % `interval`, in points of top-1; and McNemar's `p`.
    """
    n = len(first)
    only_first = int((first & ~second).sum())
    only_second = int((second & ~first).sum())
    return {
        "n": n,
        "unshared": num_unshared,
        "both": int((first & second).sum()),
        "neither": int((~first & ~second).sum()),
        "only_first": only_first,
        "only_second": only_second,
        "difference": 100 * (only_second - only_first) / n,
        "interval": interval(only_first, only_second, n),
        "p": mcnemar(only_first, only_second),
    }


def mcnemar(only_first: int, only_second: int) -> float:
    """The two-sided p of McNemar's exact test: if both networks were equally good, each sample on which they
    disagree would be the toss of a fair coin."""
    from scipy.stats import binomtest

    num_disagreements = only_first + only_second
    return float(binomtest(only_second, num_disagreements, 0.5).pvalue) if num_disagreements else 1.0


def interval(only_first: int, only_second: int, n: int) -> tuple[float, float]:
    """The 95 % interval of the difference of two matched proportions, second minus first, in percent.

    Agresti & Min 2005 (Statistics in Medicine 24:729), "Wald+2": Wald's interval after half a sample was
    added to each of the four cells, clipped at -100 and 100. Wald's interval itself has no width where the
    two never disagree.
    """
    difference = (only_second - only_first) / (n + 2)
    variance = only_first + only_second + 1 - (only_second - only_first) ** 2 / (n + 2)
    half_width = Z * np.sqrt(variance) / (n + 2)
    return 100 * max(-1.0, float(difference - half_width)), 100 * min(1.0, float(difference + half_width))
