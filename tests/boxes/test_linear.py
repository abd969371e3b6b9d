"""The linear classifiers against scikit-learn's."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.svm import LinearSVC

from convatlas.boxes.linear import Linear, fit_softmax, fit_svm, log_softmax

RNG = np.random.default_rng(0)
X = RNG.normal(size=(400, 15)) + 0.5
LABELS = np.argmax(X[:, :4] + RNG.normal(size=(400, 4)), axis=1)


@pytest.mark.parametrize(("cost", "positive_weight"), [(1e-3, 2.0), (0.1, 1.0)])
def test_the_support_vector_machine_is_liblinears(cost: float, positive_weight: float) -> None:
    is_positive = LABELS == 0
    reference = LinearSVC(
        C=cost, loss="squared_hinge", intercept_scaling=10.0, class_weight={1: positive_weight}, tol=1e-8
    ).fit(X, is_positive.astype(int))
    ours = fit_svm(X, is_positive, cost, positive_weight)
    np.testing.assert_allclose(ours(X)[:, 0], reference.decision_function(X), atol=1e-4)


def test_a_warm_start_changes_where_the_search_begins_not_where_it_ends() -> None:
    is_positive = LABELS == 1
    cold = fit_svm(X, is_positive, 0.1)
    warm = fit_svm(X, is_positive, 0.1, start=Linear(RNG.normal(size=(15, 1)), np.array([3.0])))
    np.testing.assert_allclose(warm(X), cold(X), atol=1e-4)


@pytest.mark.parametrize("cost", [1e-2, 1.0])
def test_softmax_regression_is_scikit_learns(cost: float) -> None:
    reference = LogisticRegression(C=cost, tol=1e-8, max_iter=2000).fit(X, LABELS)
    ours = fit_softmax(X, LABELS, 4, cost)
    np.testing.assert_allclose(np.exp(log_softmax(ours(X))), reference.predict_proba(X), atol=1e-4)


def test_probabilities_of_large_logits_are_finite() -> None:
    log_p = log_softmax(np.array([[1e4, 0.0, -1e4]]))
    assert log_p.tolist() == [[0, -1e4, -2e4]]
