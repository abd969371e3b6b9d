"""Schedules against the papers' numbers, and the plateau against torch's."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from convatlas.optim.plateau import PlateauState, ReduceOnPlateau
from convatlas.optim.schedules import (
    Constant,
    Cosine,
    LinearWarmup,
    MultiStep,
    OneCycle,
    Polynomial,
    StepDecay,
)
from convatlas.recipes.lenet5 import LENET5
from convatlas.recipes.resnet import RESNET110_CIFAR, RESNET_CIFAR


def test_resnet_divides_its_rate_by_ten_at_32k_and_48k_of_64k_iterations() -> None:
    steps = (0, 31_999, 32_000, 47_999, 48_000, 63_999)
    lrs = [0.1 * RESNET_CIFAR.schedule(step / 64_000) for step in steps]
    assert lrs == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001, 0.001])


def test_resnet110_warms_up_at_a_tenth_of_its_rate_for_400_iterations() -> None:
    factors = [RESNET110_CIFAR.schedule(step / 64_000) for step in (0, 399, 400, 31_999, 32_000, 48_000)]
    assert factors == [0.1, 0.1, 1, 1, 0.1, 0.01]


def test_lenet5_follows_the_printed_rates_pass_by_pass() -> None:
    printed = [0.0005] * 2 + [0.0002] * 3 + [0.0001] * 3 + [0.00005] * 4 + [0.00001] * 8
    factors = [LENET5.schedule((completed + 0.5) / 20) for completed in range(20)]
    np.testing.assert_allclose(np.array(factors) * 0.0005, printed)


@given(st.floats(0, 0.999), st.floats(0.05, 0.9), st.floats(0, 1), st.floats(0, 0.5))
def test_one_cycle_rises_to_1_and_falls_to_its_end(
    progress: float, warmup_fraction: float, start: float, end: float
) -> None:
    cycle = OneCycle(warmup_fraction=warmup_fraction, start=start, end=end)
    assert min(start, end) - 1e-9 <= cycle(progress) <= 1 + 1e-9
    assert cycle(0.0) == pytest.approx(start)
    assert cycle(warmup_fraction) == pytest.approx(1)
    assert cycle(1.0) == pytest.approx(end)
    assert Constant()(progress) == 1


def test_milestones_that_do_not_increase_are_refused() -> None:
    with pytest.raises(ValueError, match="increasing"):
        MultiStep(milestones=(0.5, 0.25), factors=(0.1, 0.01))


def test_inception_v3_decays_its_rate_by_0_94_every_two_epochs() -> None:
    """arXiv:1512.00567, sec. 8: 0.045, "decayed every two epoch using an exponential rate of 0.94"."""
    schedule = StepDecay(factor=0.94, num_drops=100 / 2)
    steps = 1_281_167 // 32 + 1  # an epoch
    for epoch in range(100):
        expected = 0.045 * 0.94 ** (epoch // 2)
        for step in (epoch * steps, epoch * steps + steps - 1):
            assert 0.045 * schedule(step / (100 * steps)) == pytest.approx(expected, rel=1e-12)


def test_shufflenets_rate_falls_linearly_from_0_5_to_0_over_300000_steps() -> None:
    """arXiv:1707.01083, sec. 4."""
    rates = [0.5 * Polynomial()(step / 300_000) for step in range(0, 300_001, 1000)]
    np.testing.assert_allclose(rates, np.linspace(0.5, 0, 301), rtol=1e-12, atol=1e-12)


@given(st.integers(1, 200), st.integers(1, 50))
def test_step_decay_falls_only_at_its_evenly_spaced_drops(num_drops: int, steps: int) -> None:
    schedule = StepDecay(factor=0.5, num_drops=num_drops)
    factors = [schedule(step / (num_drops * steps)) for step in range(num_drops * steps)]
    assert factors == [0.5 ** (step // steps) for step in range(num_drops * steps)]


@given(st.floats(0, 1), st.floats(0.05, 0.5), st.floats(0.1, 3))
def test_schedules_have_the_given_start_and_end(end: float, fraction: float, power: float) -> None:
    for schedule in (Polynomial(power=power, end=end), Cosine(end=end)):
        assert schedule(0.0) == pytest.approx(1)
        assert schedule(1.0) == pytest.approx(end)
    assert Polynomial()(0.25) == pytest.approx(0.75)
    assert Cosine()(0.5) == pytest.approx(0.5)
    warmup = LinearWarmup(fraction=fraction, start=0.1, after=Polynomial())
    assert warmup(0.0) == pytest.approx(0.1)
    assert warmup(fraction / 2) == pytest.approx(0.55 * (1 - fraction / 2))
    assert warmup(fraction) == pytest.approx(1 - fraction)


@given(
    st.lists(st.integers(1, 30), max_size=60),
    st.integers(0, 4),
    st.floats(0, 0.2),
    st.none() | st.integers(0, 3),
)
def test_a_plateau_divides_the_rate_as_torchs_scheduler_does(
    errors: list[int], patience: int, threshold: float, most: int | None
) -> None:
    plateau = ReduceOnPlateau(factor=0.5, patience=patience, threshold=threshold, most=most)
    state = PlateauState()
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    min_lr = 0.0 if most is None else 0.5**most
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, factor=0.5, patience=patience, threshold=threshold, min_lr=min_lr, eps=0.0
    )
    for error in errors:
        state = plateau.next_state(state, error)
        scheduler.step(error)
        assert plateau.lr_factor(state) == optimizer.param_groups[0]["lr"]


def test_an_error_that_is_nan_is_no_improvement_even_as_the_first() -> None:
    plateau = ReduceOnPlateau(factor=0.1, patience=1)
    state = plateau.next_state(PlateauState(), float("nan"))
    assert state == PlateauState(bad_epochs=1)
    assert plateau.next_state(state, 50.0) == PlateauState(best=50.0)
