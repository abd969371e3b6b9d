"""Two networks on the same samples: who was right where, the difference of their accuracies, and whether it may be chance."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from convatlas.evaluation import metrics
from convatlas.evaluation.predictions import PredictionsMetadata, StoredPredictions

Z = 1.959963984540054  # of a 95 % interval


class Correctness(NamedTuple):
    """What a comparison needs of the answers: a thousand times less than the logits of a thousand classes."""

    metadata: PredictionsMetadata
    indices: metrics.Labels  # (n,), ascending
    correct: NDArray[np.bool_]  # (n,)


def correctness(answered: StoredPredictions) -> Correctness:
    return Correctness(answered.metadata, answered.indices, metrics.correct(answered.logits, answered.labels))


def pairing_problem(first: Correctness, second: Correctness) -> str | None:
    """Why the two cannot be paired, in a few words; None where they can."""
    a, b = first.metadata, second.metadata
    if a.digest != b.digest:
        return f"other data: {a.data} and {b.data}" if a.data != b.data else f"the content of {a.data} had changed"
    if a.split != b.split:
        return f"other splits: {a.split} and {b.split}"
    if a.crops != b.crops:
        return f"other crops: {a.crops} and {b.crops}"
    if not np.isin(first.indices, second.indices).any():
        return "no sample that both could read"
    return None


def paired_comparison(first: Correctness, second: Correctness) -> dict[str, Any]:
    """`n` samples that both answered, `unshared` that one of them could not read; of the n those that `both`, `neither`,
    `only_first` and `only_second` got right; `difference` (second minus first) and its 95 % `interval` in points of top-1; `p`.

    The samples are matched by their place in the split; `obstacle` says whether that means the same sample.
    """
    _, a, b = np.intersect1d(first.indices, second.indices, assume_unique=True, return_indices=True)
    one, two = first.correct[a], second.correct[b]
    n, only_first, only_second = len(one), int((one & ~two).sum()), int((two & ~one).sum())
    return {
        "n": n,
        "unshared": len(first.indices) + len(second.indices) - 2 * n,
        "both": int((one & two).sum()),
        "neither": int((~one & ~two).sum()),
        "only_first": only_first,
        "only_second": only_second,
        "difference": 100 * (only_second - only_first) / n,
        "interval": interval(only_first, only_second, n),
        "p": mcnemar(only_first, only_second),
    }


def mcnemar(only_first: int, only_second: int) -> float:
    """The two-sided p of McNemar's exact test: were both equally good, each sample on which they disagree would be a fair coin's."""
    from scipy.stats import binomtest

    disagreements = only_first + only_second
    return float(binomtest(only_second, disagreements, 0.5).pvalue) if disagreements else 1.0


def interval(only_first: int, only_second: int, n: int) -> tuple[float, float]:
    """The 95 % interval of the difference of two matched proportions, second minus first, in percent.

    Agresti & Min 2005 (Statistics in Medicine 24:729), "Wald+2": Wald's interval after half a sample was added to each of the four
    cells, cut at -100 and 100. Wald's own has no width where the two never disagree.
    """
    difference = (only_second - only_first) / (n + 2)
    reach = Z * np.sqrt(only_first + only_second + 1 - (only_second - only_first) ** 2 / (n + 2)) / (n + 2)
    return 100 * max(-1.0, float(difference - reach)), 100 * min(1.0, float(difference + reach))
