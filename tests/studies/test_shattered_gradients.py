"""The correlation of gradients, against autograd and the theorems' arithmetic."""

import pytest
import torch

from convatlas.studies.measures.shattered_gradients import NUM_INPUTS, Kind, gradient_correlation
from convatlas.studies.papers.shattered_gradients import PREDICTED


@pytest.mark.parametrize("kind", list(PREDICTED))
def test_gradients_are_autograds(kind: Kind) -> None:
    """The same random numbers through the network itself; a batch's mean and deviation are constants."""
    width, depth = 12, 3
    numbers = torch.Generator().manual_seed(5)
    x = torch.randn(NUM_INPUTS, width, generator=numbers, dtype=torch.float64).requires_grad_()
    h = x
    for _ in range(depth):
        weight = torch.randn(width, width, generator=numbers, dtype=torch.float64) * (2 / width) ** 0.5
        if kind == "plain":
            h = torch.relu(h @ weight.T)
        elif kind == "residual":
            h = h + torch.relu(h) @ weight.T
        else:
            values = h.detach()
            normalized = (h - values.mean(0)) / (values.var(0, correction=0) + 1e-12).sqrt()
            h = h + torch.relu(normalized) @ weight.T
    direction = torch.randn(width, generator=numbers, dtype=torch.float64)
    (gradients,) = torch.autograd.grad((h @ direction).sum(), x)
    off_diagonal = ~torch.eye(NUM_INPUTS, dtype=torch.bool)
    products = gradients @ gradients.T
    expected = products[off_diagonal].mean() / products.diagonal().mean()
    measured = gradient_correlation(kind, depth, seed=5, width=width)["correlation"]
    assert measured == pytest.approx(float(expected), rel=1e-9)


@pytest.mark.parametrize(("kind", "depth"), [("plain", 4), ("residual", 4), ("residual with batch norm", 16)])
def test_with_tossed_masks_the_theorems_hold(kind: Kind, depth: int) -> None:
    predicted = {"plain": 0.5**depth, "residual": 0.75**depth, "residual with batch norm": depth**-0.5}[kind]
    measured = [
        gradient_correlation(kind, depth, seed, independent_masks=True)["correlation"] for seed in range(12)
    ]
    assert sum(measured) / len(measured) == pytest.approx(predicted, abs=0.03)
