"""Metrics from logits (n, classes) and labels (n,). Counts are integers; sums run in float64, in the order of
the samples."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Logits = NDArray[np.float32]
Labels = NDArray[np.int64]


class SampleScores(NamedTuple):
    """The values per sample that every score is computed from: one ranking and one log-softmax of the logits.

    They take 40 bytes a sample, whatever the number of classes.
    """

    labels: Labels  # (n,)
    predictions: Labels  # (n,): the class with the highest logit
    ranks: NDArray[np.int64]  # (n,): the number of classes ranked above the label; 0 where it is predicted
    log_likelihoods: NDArray[np.float64]  # (n,): log p(label)
    confidences: NDArray[np.float64]  # (n,): the probability of the predicted class
    num_classes: int

    def correct(self, k: int = 1) -> NDArray[np.bool_]:
        """(n,): whether the label is among the k highest classes."""
        return self.ranks < k


def score_samples(logits: Logits, labels: Labels) -> SampleScores:
    log_probs = log_probabilities(logits)
    return SampleScores(
        labels=labels,
        predictions=logits.argmax(axis=1),
        ranks=label_ranks(logits, labels),
        log_likelihoods=log_probs[np.arange(len(labels)), labels],
        confidences=np.exp(log_probs.max(axis=1)),
        num_classes=logits.shape[1],
    )


def log_probabilities(logits: Logits) -> NDArray[np.float64]:
    """The log-softmax, in float64."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    log_probs: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return log_probs


def label_ranks(logits: Logits, labels: Labels) -> NDArray[np.int64]:
    """(n,): how many classes rank above the label. Of equal logits, the class listed first ranks higher."""
    label_logits = logits[np.arange(len(labels)), labels][:, None]
    listed_before = np.arange(logits.shape[1])[None] < labels[:, None]
    above = (logits > label_logits) | ((logits == label_logits) & listed_before)
    ranks: NDArray[np.int64] = above.sum(axis=1)
    return ranks


def correct(logits: Logits, labels: Labels, k: int = 1) -> NDArray[np.bool_]:
    """(n,): whether the label is among the k highest classes, ranked as in `label_ranks`."""
    return label_ranks(logits, labels) < k


def negative_log_likelihood(samples: SampleScores) -> float:
    """The mean of -log p(label)."""
    return float(-samples.log_likelihoods.mean())


def confusion(samples: SampleScores) -> NDArray[np.int64]:
    """(classes, classes): the number of samples of the row's class that were predicted as the column's."""
    classes = samples.num_classes
    cells = samples.labels * classes + samples.predictions
    return np.bincount(cells, minlength=classes**2).reshape(classes, classes)


def balanced_accuracy(confusion: NDArray[np.int64]) -> float:
    """The mean over the classes of the share of their samples that are predicted correctly, in percent.

    Classes without samples do not count.
    """
    samples = confusion.sum(axis=1)
    present = samples > 0
    return 100 * float((confusion.diagonal()[present] / samples[present]).mean())


def f1_scores(confusion: NDArray[np.int64]) -> NDArray[np.float64]:
    """(classes,): the harmonic mean of precision and recall of each class, in percent; NaN for a class that
    is neither a label nor predicted."""
    with np.errstate(invalid="ignore"):
        f1: NDArray[np.float64] = 200 * confusion.diagonal() / (confusion.sum(axis=0) + confusion.sum(axis=1))
    return f1


def macro_f1(confusion: NDArray[np.int64]) -> float:
    """The mean of the classes' F1 scores, in percent, without classes that are neither a label nor
    predicted."""
    return float(np.nanmean(f1_scores(confusion)))


def majority_class(confusion: NDArray[np.int64]) -> tuple[int, float]:
    """The class with most samples, and their share in percent: the accuracy of always predicting it."""
    samples = confusion.sum(axis=1)
    largest = int(samples.argmax())
    return largest, percent(int(samples[largest]), int(samples.sum()))


def interval(successes: int, trials: int) -> tuple[float, float]:
    """The 95 % Wilson interval of a proportion, in percent."""
    from scipy.stats import binomtest

    bounds = binomtest(successes, trials).proportion_ci(confidence_level=0.95, method="wilson")
    return 100 * float(bounds.low), 100 * float(bounds.high)


def percent(count: int | float, total: int) -> float:
    return 100 * float(count) / total
