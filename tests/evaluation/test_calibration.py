"""Calibration, against scikit-learn and the paper's equation."""

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.calibration import calibration_curve

from convatlas.evaluation.calibration import BINS, calibration_error, reliability

RNG = np.random.default_rng(0)
LOGITS = (2.5 * RNG.normal(size=(4000, 10))).astype(np.float32)
LABELS = np.array([RNG.choice(10, p=softmax(row)) for row in (0.6 * LOGITS).astype(np.float64)])  # overconfident


def test_the_bins_are_scikit_learns() -> None:
    sure, right = softmax(LOGITS.astype(np.float64), axis=1).max(axis=1), LOGITS.argmax(axis=1) == LABELS
    accuracy, confidence = calibration_curve(right, sure, n_bins=BINS)
    filled = [one for one in reliability(LOGITS, LABELS) if one.n]
    assert len(filled) == len(accuracy)
    np.testing.assert_allclose(np.array([one.accuracy for one in filled], float), 100 * accuracy)
    np.testing.assert_allclose(np.array([one.confidence for one in filled], float), 100 * confidence)
    assert sum(one.n for one in filled) == 4000


def test_the_error_is_the_papers_equation_3() -> None:
    sure, right = softmax(LOGITS.astype(np.float64), axis=1).max(axis=1), LOGITS.argmax(axis=1) == LABELS
    expected = 0.0
    for m in range(1, BINS + 1):  # B_m: confidence in ((m - 1) / M, m / M]
        inside = ((m - 1) / BINS < sure) & (sure <= m / BINS)
        if inside.any():
            expected += inside.sum() / len(sure) * abs(right[inside].mean() - sure[inside].mean())
    assert calibration_error(reliability(LOGITS, LABELS)) == pytest.approx(100 * expected)
    assert 10 < 100 * expected < 40


def test_who_is_right_as_often_as_he_says_has_nearly_none() -> None:
    labels = np.array([RNG.choice(10, p=softmax(row)) for row in LOGITS.astype(np.float64)])
    assert calibration_error(reliability(LOGITS, labels)) < 2


def test_who_is_sure_and_always_right_has_none_and_always_wrong_all() -> None:
    logits = np.full((50, 4), -100, np.float32)
    logits[:, 2] = 100
    assert calibration_error(reliability(logits, np.full(50, 2))) == pytest.approx(0)
    assert calibration_error(reliability(logits, np.full(50, 1))) == pytest.approx(100)
    assert reliability(logits, np.full(50, 2))[-1] == pytest.approx((100 * 14 / 15, 100, 50, 100, 100))
    assert reliability(logits, np.full(50, 2))[0][2:] == (0, None, None)
