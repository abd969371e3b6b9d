"""Schedules against the numbers that papers print, and the plateau against torch's."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from convatlas.optim.plateau import Plateau, Watch
from convatlas.optim.schedules import Constant, Cosine, Exponential, OneCycle, Polynomial, Steps, WarmUp
from convatlas.recipes.lenet5 import LENET5
from convatlas.recipes.resnet import RESNET110_CIFAR, RESNET_CIFAR


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


def test_inception_v3_takes_six_percent_off_its_rate_every_two_of_a_hundred_epochs() -> None:
    """arXiv:1512.00567, sec. 8: 0.045, "decayed every two epoch using an exponential rate of 0.94"."""
    schedule, steps = Exponential(factor=0.94, drops=100 / 2), 1_281_167 // 32 + 1
    for epoch in range(100):
        for step in (epoch * steps, epoch * steps + steps - 1):
            assert 0.045 * schedule(step / (100 * steps)) == pytest.approx(0.045 * 0.94 ** (epoch // 2), rel=1e-12)


def test_shufflenets_rate_falls_in_a_line_from_a_half_to_nothing_over_300000_steps() -> None:
    """arXiv:1707.01083, sec. 4."""
    rates = [0.5 * Polynomial()(step / 300_000) for step in range(0, 300_001, 1000)]
    np.testing.assert_allclose(rates, np.linspace(0.5, 0, 301), rtol=1e-12, atol=1e-12)


@given(st.integers(1, 200), st.integers(1, 50))
def test_an_exponential_schedule_falls_at_each_of_its_places_and_nowhere_else(drops: int, steps: int) -> None:
    schedule = Exponential(factor=0.5, drops=drops)
    factors = [schedule(step / (drops * steps)) for step in range(drops * steps)]
    assert factors == [0.5 ** (step // steps) for step in range(drops * steps)]


@given(st.floats(0, 1), st.floats(0.05, 0.5), st.floats(0.1, 3))
def test_schedules_begin_at_one_and_end_where_they_say(end: float, rise: float, power: float) -> None:
    for schedule in (Polynomial(power=power, end=end), Cosine(end=end)):
        assert schedule(0.0) == pytest.approx(1)
        assert schedule(1.0) == pytest.approx(end)
    assert Polynomial()(0.25) == pytest.approx(0.75)
    assert Cosine()(0.5) == pytest.approx(0.5)
    warm = WarmUp(rise=rise, start=0.1, after=Polynomial())
    assert warm(0.0) == pytest.approx(0.1)
    assert warm(rise / 2) == pytest.approx(0.55 * (1 - rise / 2))
    assert warm(rise) == pytest.approx(1 - rise)


@given(st.lists(st.integers(1, 30), max_size=60), st.integers(0, 4), st.floats(0, 0.2), st.none() | st.integers(0, 3))
def test_a_plateau_divides_the_rate_where_torchs_does_and_at_most_as_often_as_it_says(
    errors: list[int], patience: int, threshold: float, most: int | None
) -> None:
    plateau, watch = Plateau(factor=0.5, patience=patience, threshold=threshold, most=most), Watch()
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, factor=0.5, patience=patience, threshold=threshold, min_lr=0.0 if most is None else 0.5**most, eps=0.0
    )
    for error in errors:
        watch = plateau.next(watch, error)
        theirs.step(error)
        assert plateau.rate(watch) == optimizer.param_groups[0]["lr"]


def test_to_a_plateau_an_error_that_is_no_number_is_no_better_even_as_the_first() -> None:
    plateau = Plateau(factor=0.1, patience=1)
    watch = plateau.next(Watch(), float("nan"))
    assert watch == Watch(bad_epochs=1)
    assert plateau.next(watch, 50.0) == Watch(best=50.0)
