"""What happens to gradients and weights around a step: clipping, the filters' radius, averages, plateaus."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from convatlas.optim.averaging import ExponentialAverage
from convatlas.optim.clipping import ClipNorm, ClipValue
from convatlas.optim.constraints import FilterRadius
from convatlas.optim.losses import CrossEntropy
from convatlas.optim.plateau import Plateau, Watch
from convatlas.optim.schedules import Cosine, Exponential, Polynomial, WarmUp


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(3, 2)).double()


@pytest.mark.parametrize("warm", [True, False])
def test_the_average_is_tensorflows_recurrence_statistics_of_batch_norm_included(warm: bool) -> None:
    model = network()
    average = ExponentialAverage(decay=0.9, warm=warm).build(model)
    expected = {name: t.clone() for name, t in model.state_dict().items()}  # the shadow begins as the weights do
    for step in range(1, 30):
        model.train()
        model(torch.randn(4, 2, 3, 3, dtype=torch.float64))
        with torch.no_grad():
            for p in model.parameters():
                p.add_(torch.randn_like(p))
        average.update_parameters(model)
        decay = min(0.9, (1 + step) / (10 + step)) if warm else 0.9
        for name, t in model.state_dict().items():
            expected[name] = decay * expected[name] + (1 - decay) * t if t.is_floating_point() else t.clone()
    found = average.module.state_dict()
    assert found["1.num_batches_tracked"] == 29
    for name, t in expected.items():
        torch.testing.assert_close(found[name], t, rtol=1e-10, atol=1e-12)


def test_an_average_taken_up_from_its_tensors_goes_on_as_if_never_stopped() -> None:
    model = network()
    average = ExponentialAverage(decay=0.99).build(model)
    for _ in range(3):
        average.update_parameters(model)
    other = ExponentialAverage(decay=0.99).build(copy.deepcopy(model))
    other.load_state_dict(average.state_dict())
    with torch.no_grad():
        for p in model.parameters():
            p.add_(1.0)
    average.update_parameters(model)
    other.update_parameters(model)
    for a, b in zip(average.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.equal(a, b)


@given(st.floats(0.1, 100), st.floats(0.01, 10))
def test_the_norm_of_all_gradients_together_is_brought_down_to_the_threshold_and_never_up(size: float, threshold: float) -> None:
    parameters = [nn.Parameter(torch.zeros(3, dtype=torch.float64)) for _ in range(2)]
    gradients = [torch.tensor([size, 0, -size]).double(), torch.tensor([0, 2 * size, 0]).double()]
    for p, g in zip(parameters, gradients, strict=True):
        p.grad = g.clone()
    ClipNorm(norm=threshold)(parameters)
    whole = np.sqrt(6) * size
    for p, g in zip(parameters, gradients, strict=True):
        torch.testing.assert_close(p.grad, g * min(1.0, threshold / whole), rtol=1e-5, atol=1e-9)
    ClipValue(value=threshold / 4)(parameters)
    assert all(p.grad is not None and p.grad.abs().max() <= threshold / 4 for p in parameters)


def test_a_filter_beyond_the_radius_is_scaled_back_to_it_and_others_keep_their_bits() -> None:
    layer = nn.Conv2d(4, 2, 3)
    with torch.no_grad():
        layer.weight[0] = 0.05 * torch.randn(4, 3, 3).sign()
        layer.weight[1] = 3 * torch.randn(4, 3, 3)
    before, linear = layer.weight.clone(), nn.Linear(3, 3)
    untouched = linear.weight.clone()
    FilterRadius(rms=0.1)(nn.ModuleList([layer, linear]))
    assert torch.equal(layer.weight[0], before[0])
    assert layer.weight[1].square().mean().sqrt().item() == pytest.approx(0.1, rel=1e-6)
    torch.testing.assert_close(layer.weight[1] / layer.weight[1].norm(), before[1] / before[1].norm())
    assert torch.equal(linear.weight, untouched)


@given(st.lists(st.floats(0.1, 100), min_size=1, max_size=40), st.integers(0, 4), st.floats(0, 0.2))
def test_a_plateau_divides_the_rate_where_torchs_does(errors: list[float], patience: int, threshold: float) -> None:
    plateau, watch = Plateau(factor=0.1, patience=patience, threshold=threshold), Watch()
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.1, patience=patience, threshold=threshold, eps=0.0)
    for error in errors:
        watch = plateau.next(watch, error)
        theirs.step(error)
        assert plateau.rate(watch) == pytest.approx(optimizer.param_groups[0]["lr"])


def test_a_plateau_divides_at_most_as_often_as_it_says() -> None:
    plateau, watch = Plateau(factor=0.5, patience=0, most=2), Watch()
    for _ in range(10):
        watch = plateau.next(watch, 1.0)
    assert plateau.rate(watch) == 0.25


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


@given(st.integers(2, 20), st.floats(0, 0.9))
def test_smoothing_labels_is_mixing_in_the_cross_entropy_with_the_uniform_distribution(classes: int, eps: float) -> None:
    """arXiv:1512.00567, sec. 7: H(q', p) = (1 - eps) H(q, p) + eps H(u, p)."""
    logits = torch.randn(3, classes, generator=torch.Generator().manual_seed(classes)) * 4
    targets = torch.arange(3) % classes
    log_p = logits.double().log_softmax(1)
    smoothed = (1 - eps) * nn.functional.one_hot(targets, classes).double() + eps / classes
    first = -(smoothed * log_p).sum(1)
    second = (1 - eps) * -log_p.gather(1, targets[:, None])[:, 0] + eps * -log_p.mean(1)
    torch.testing.assert_close(first, second, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(CrossEntropy(label_smoothing=eps)(logits, targets).double(), first, rtol=1e-5, atol=1e-5)
