"""Linear classifiers of features, fitted in float64 to the minimum of a convex loss by L-BFGS.

Support vector machines: LIBLINEAR's objective with squared hinge,
w'w / 2 + sum_i c_i max(0, 1 - y_i f(x_i))^2, where the bias is the weight of a constant feature. Softmax
regression: w'w / 2 without the biases, plus c times the sum of the cross-entropies.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from convatlas.boxes.arrays import Array

Features = NDArray[np.float32] | Array  # (n, d)
MAX_ITERATIONS = 200


@dataclass(frozen=True)
class Linear:
    """features (n, d) -> features @ weights + biases: (n, k)"""

    weights: Array  # (d, k)
    biases: Array  # (k,)

    def __call__(self, features: Features) -> Array:
        outputs: Array = features @ self.weights + self.biases
        return outputs


def fit_svm(
    features: Features,
    is_positive: NDArray[np.bool_],
    cost: float = 1e-3,
    positive_weight: float = 2.0,
    bias_feature: float = 10.0,
    start: Linear | None = None,
) -> Linear:
    """A binary support vector machine (d, 1). `positive_weight` multiplies `cost` for positives. The defaults
    are those of R-CNN's released code; the paper prints none. `start` is where the search begins."""
    signs = np.where(is_positive, 1.0, -1.0)
    costs = np.where(is_positive, cost * positive_weight, cost)
    rows = np.asarray(features, np.float64)

    def objective(w: Array) -> tuple[float, Array]:
        violations = np.maximum(0, 1 - signs * (rows @ w[:-1] + bias_feature * w[-1]))
        slopes = -2 * costs * signs * violations
        gradient = np.append(rows.T @ slopes, bias_feature * slopes.sum()) + w
        return float(costs @ violations**2 + w @ w / 2), gradient

    w = np.zeros(rows.shape[1] + 1)
    if start is not None:
        w = np.append(start.weights[:, 0], start.biases[0] / bias_feature)
    w = minimize(objective, w)
    return Linear(w[:-1, None], bias_feature * w[-1:])


def fit_softmax(features: Features, labels: NDArray[np.int64], num_classes: int, cost: float = 1.0) -> Linear:
    """Softmax regression on labels (n,): (d, num_classes)."""
    rows = np.asarray(features, np.float64)
    targets = np.eye(num_classes)[labels]

    def objective(parameters: Array) -> tuple[float, Array]:
        w = parameters.reshape(-1, num_classes)
        log_p = log_softmax(rows @ w[:-1] + w[-1])
        slopes = cost * (np.exp(log_p) - targets)
        gradient = np.vstack([rows.T @ slopes + w[:-1], slopes.sum(axis=0)])
        loss = -cost * (targets * log_p).sum() + (w[:-1] ** 2).sum() / 2
        return float(loss), gradient.ravel()

    w = minimize(objective, np.zeros((rows.shape[1] + 1) * num_classes)).reshape(-1, num_classes)
    return Linear(w[:-1], w[-1])


def log_softmax(logits: Array) -> Array:
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_p: Array = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return log_p


def minimize(objective: Callable[[Array], tuple[float, Array]], start: Array) -> Array:
    from scipy.optimize import minimize as scipy_minimize

    options = {"maxiter": MAX_ITERATIONS, "gtol": 1e-6, "ftol": 1e-10}
    result: Array = scipy_minimize(objective, start, jac=True, method="L-BFGS-B", options=options).x
    return result
