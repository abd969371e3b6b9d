"""Gradient clipping before a step, and the constraint on filters after it."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from convatlas.optim.clipping import ClipNorm, ClipValue
from convatlas.optim.constraints import FilterRadius


@given(st.floats(0.1, 100), st.floats(0.01, 10))
def test_the_norm_of_all_gradients_is_scaled_down_to_the_threshold(size: float, threshold: float) -> None:
    parameters = [nn.Parameter(torch.zeros(3, dtype=torch.float64)) for _ in range(2)]
    gradients = [torch.tensor([size, 0, -size]).double(), torch.tensor([0, 2 * size, 0]).double()]
    for p, g in zip(parameters, gradients, strict=True):
        p.grad = g.clone()
    ClipNorm(norm=threshold)(parameters)
    total_norm = np.sqrt(6) * size
    for p, g in zip(parameters, gradients, strict=True):
        torch.testing.assert_close(p.grad, g * min(1.0, threshold / total_norm), rtol=1e-5, atol=1e-9)
    ClipValue(value=threshold / 4)(parameters)
    assert all(p.grad is not None and p.grad.abs().max() <= threshold / 4 for p in parameters)


def test_only_filters_beyond_the_radius_are_scaled_back_to_it() -> None:
    layer = nn.Conv2d(4, 2, 3)
    with torch.no_grad():
        layer.weight[0] = 0.05 * torch.randn(4, 3, 3).sign()
        layer.weight[1] = 3 * torch.randn(4, 3, 3)
    before = layer.weight.clone()
    linear = nn.Linear(3, 3)
    linear_before = linear.weight.clone()
    FilterRadius(rms=0.1)(nn.ModuleList([layer, linear]))
    assert torch.equal(layer.weight[0], before[0])
    assert layer.weight[1].square().mean().sqrt().item() == pytest.approx(0.1, rel=1e-6)
    torch.testing.assert_close(layer.weight[1] / layer.weight[1].norm(), before[1] / before[1].norm())
    assert torch.equal(linear.weight, linear_before)
