"""Schedules, losses and optimisers against their equations in float64."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from convatlas.optim.losses import CompetingClasses, CrossEntropy
from convatlas.optim.optimizers import SGD, AdamW, set_lr
from convatlas.optim.schedules import Constant, OneCycle, Steps
from convatlas.recipes.lenet5 import LENET5
from convatlas.recipes.resnet import RESNET110_CIFAR, RESNET_CIFAR

RNG = np.random.default_rng(0)


def test_resnet_divides_its_rate_by_ten_at_32k_and_48k_of_64k_iterations() -> None:
    rate = {step: 0.1 * RESNET_CIFAR.schedule(step / 64_000) for step in (0, 31_999, 32_000, 47_999, 48_000, 63_999)}
    assert rate == pytest.approx({0: 0.1, 31_999: 0.1, 32_000: 0.01, 47_999: 0.01, 48_000: 0.001, 63_999: 0.001})


def test_resnet110_warms_up_at_a_tenth_for_400_iterations_and_then_goes_back() -> None:
    factors = [RESNET110_CIFAR.schedule(step / 64_000) for step in (0, 399, 400, 31_999, 32_000, 48_000)]
    assert factors == [0.1, 0.1, 1, 1, 0.1, 0.01]


def test_lenet5_follows_the_printed_rates_pass_by_pass() -> None:
    printed = [0.0005] * 2 + [0.0002] * 3 + [0.0001] * 3 + [0.00005] * 4 + [0.00001] * 8
    factors = [LENET5.schedule((done + 0.5) / 20) for done in range(20)]
    np.testing.assert_allclose(np.array(factors) * 0.0005, printed)


@given(st.floats(0, 0.999), st.floats(0.05, 0.9), st.floats(0, 1), st.floats(0, 0.5))
def test_one_cycle_rises_to_one_and_falls_to_its_end(progress: float, rise: float, start: float, end: float) -> None:
    cycle = OneCycle(rise=rise, start=start, end=end)
    assert min(start, end) - 1e-9 <= cycle(progress) <= 1 + 1e-9
    assert cycle(0.0) == pytest.approx(start)
    assert cycle(rise) == pytest.approx(1)
    assert cycle(1.0) == pytest.approx(end)
    assert Constant()(progress) == 1


def test_steps_refuse_places_that_do_not_increase() -> None:
    with pytest.raises(ValueError, match="increasing"):
        Steps(at=(0.5, 0.25), factors=(0.1, 0.01))


def test_competing_classes_is_equation_9() -> None:
    penalties, j = RNG.uniform(0, 5, size=(4, 10)), 1.5
    targets = np.array([0, 3, 9, 3])
    expected = [y[d] + np.log(np.exp(-j) + np.exp(-y).sum()) for y, d in zip(penalties, targets, strict=True)]
    found = CompetingClasses(j=j)(torch.from_numpy(-penalties).float(), torch.from_numpy(targets))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_cross_entropy_with_smoothed_labels() -> None:
    logits, targets, eps = RNG.normal(size=(4, 10)), np.array([0, 3, 9, 3]), 0.1
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    q = np.full((4, 10), eps / 10)
    q[np.arange(4), targets] += 1 - eps
    found = CrossEntropy(label_smoothing=eps)(torch.from_numpy(logits), torch.from_numpy(targets))
    np.testing.assert_allclose(found, -(q * log_p).sum(axis=1), rtol=1e-6)


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_is_momentum_with_coupled_decay_through_changes_of_the_rate(nesterov: bool) -> None:
    module = nn.Linear(3, 2).double()
    optimizer = SGD(lr=0.1, momentum=0.9, nesterov=nesterov, weight_decay=0.01, decay_all=False).build(module)
    w, b = (p.detach().numpy().copy() for p in (module.weight, module.bias))
    velocities = [np.zeros_like(w), np.zeros_like(b)]
    for lr in (0.1, 0.3, 0.05):
        gradients = [RNG.normal(size=w.shape), RNG.normal(size=b.shape)]
        module.weight.grad, module.bias.grad = map(torch.from_numpy, gradients)
        set_lr(optimizer, lr)
        optimizer.step()
        for value, velocity, gradient, decay in zip((w, b), velocities, gradients, (0.01, 0.0), strict=True):
            gradient = gradient + decay * value
            velocity[:] = 0.9 * velocity + gradient
            value -= lr * (gradient + 0.9 * velocity if nesterov else velocity)
    np.testing.assert_allclose(module.weight.detach(), w, rtol=1e-10)
    np.testing.assert_allclose(module.bias.detach(), b, rtol=1e-10)


def test_adamw_is_its_paper() -> None:
    module = nn.Linear(3, 2, bias=False).double()
    optimizer = AdamW(lr=0.01, weight_decay=0.1).build(module)
    w = module.weight.detach().numpy().copy()
    m = v = np.zeros_like(w)
    for t in range(1, 5):
        g = RNG.normal(size=w.shape)
        module.weight.grad = torch.from_numpy(g)
        optimizer.step()
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        w = w - 0.01 * 0.1 * w - 0.01 * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
    np.testing.assert_allclose(module.weight.detach(), w, rtol=1e-10)
