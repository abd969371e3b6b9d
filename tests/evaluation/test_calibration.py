"""Calibration, against scikit-learn and the paper's equation."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import softmax
from sklearn.calibration import calibration_curve

from convatlas.evaluation.calibration import NUM_BINS, Bin, calibration_error, reliability
from convatlas.evaluation.metrics import score_samples

RNG = np.random.default_rng(0)
LOGITS = (2.5 * RNG.normal(size=(4000, 10))).astype(np.float32)
LABELS = np.array(
    [RNG.choice(10, p=softmax(row)) for row in (0.6 * LOGITS).astype(np.float64)]
)  # overconfident


def bins_of(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> list[Bin]:
    return reliability(score_samples(logits, labels))


def test_the_bins_are_those_of_scikit_learn() -> None:
    confidences = softmax(LOGITS.astype(np.float64), axis=1).max(axis=1)
    correct = LOGITS.argmax(axis=1) == LABELS
    accuracy, confidence = calibration_curve(correct, confidences, n_bins=NUM_BINS)
    filled = [bin for bin in bins_of(LOGITS, LABELS) if bin.n]
    assert len(filled) == len(accuracy)
    np.testing.assert_allclose(np.array([bin.accuracy for bin in filled], float), 100 * accuracy)
    np.testing.assert_allclose(np.array([bin.confidence for bin in filled], float), 100 * confidence)
    assert sum(bin.n for bin in filled) == 4000


def test_the_error_is_equation_3_of_the_paper() -> None:
    confidences = softmax(LOGITS.astype(np.float64), axis=1).max(axis=1)
    correct = LOGITS.argmax(axis=1) == LABELS
    expected = 0.0
    for m in range(1, NUM_BINS + 1):  # B_m: confidence in ((m - 1) / M, m / M]
        in_bin = ((m - 1) / NUM_BINS < confidences) & (confidences <= m / NUM_BINS)
        if in_bin.any():
            gap = abs(correct[in_bin].mean() - confidences[in_bin].mean())
            expected += in_bin.sum() / len(confidences) * gap
    assert calibration_error(bins_of(LOGITS, LABELS)) == pytest.approx(100 * expected)
    assert 10 < 100 * expected < 40


def test_labels_drawn_from_the_probabilities_have_nearly_no_error() -> None:
    labels = np.array([RNG.choice(10, p=softmax(row)) for row in LOGITS.astype(np.float64)])
    assert calibration_error(bins_of(LOGITS, labels)) < 2


def test_full_confidence_has_no_error_if_always_right_and_100_if_always_wrong() -> None:
    logits = np.full((50, 4), -100, np.float32)
    logits[:, 2] = 100
    always_right = bins_of(logits, np.full(50, 2))
    assert calibration_error(always_right) == pytest.approx(0)
    assert calibration_error(bins_of(logits, np.full(50, 1))) == pytest.approx(100)
    assert always_right[-1] == pytest.approx((100 * 14 / 15, 100, 50, 100, 100))
    assert always_right[0][2:] == (0, None, None)
