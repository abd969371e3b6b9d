"""Local response normalisation against the formula of sec. 3.3 of Krizhevsky 2012, term by term."""

import numpy as np
import pytest
import torch

from convatlas.layers.local_response import LocalResponseNorm


@pytest.mark.parametrize(("channels", "n"), [(7, 5), (3, 5), (6, 3), (1, 5)])
def test_it_computes_the_papers_formula_with_an_undivided_sum(channels: int, n: int) -> None:
    a = np.random.default_rng(0).normal(size=(2, channels, 3, 2), scale=30)
    k, alpha, beta = 2.0, 1e-4, 0.75
    expected = np.empty_like(a)
    for i in range(channels):
        total = np.zeros_like(a[:, 0])
        for j in range(max(0, i - n // 2), min(channels - 1, i + n // 2) + 1):
            total += a[:, j] ** 2
        expected[:, i] = a[:, i] / (k + alpha * total) ** beta
    b = LocalResponseNorm(k, n, alpha, beta)(torch.from_numpy(a)).numpy()
    np.testing.assert_allclose(b, expected, rtol=1e-12)


def test_the_defaults_are_the_papers() -> None:
    norm = LocalResponseNorm()
    assert (norm.k, norm.n, norm.alpha, norm.beta) == (2, 5, 1e-4, 0.75)
