"""Averages of the weights against TensorFlow's recurrence."""

import copy

import pytest
import torch
from torch import nn

from convatlas.optim.ema import ExponentialMovingAverage


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(3, 2)).double()


@pytest.mark.parametrize("warmup", [True, False])
def test_weights_and_statistics_follow_tensorflows_recurrence(warmup: bool) -> None:
    model = network()
    average = ExponentialMovingAverage(decay=0.9, warmup=warmup).build(model)
    expected = {name: t.clone() for name, t in model.state_dict().items()}  # the initial average
    for step in range(1, 30):
        model.train()
        model(torch.randn(4, 2, 3, 3, dtype=torch.float64))
        with torch.no_grad():
            for p in model.parameters():
                p.add_(torch.randn_like(p))
        average.update_parameters(model)
        decay = min(0.9, (1 + step) / (10 + step)) if warmup else 0.9
        for name, t in model.state_dict().items():
            expected[name] = decay * expected[name] + (1 - decay) * t if t.is_floating_point() else t.clone()
    averages = average.module.state_dict()
    assert averages["1.num_batches_tracked"] == 29
    for name, t in expected.items():
        torch.testing.assert_close(averages[name], t, rtol=1e-10, atol=1e-12)


def test_an_average_continues_from_its_state_dict_as_if_never_stopped() -> None:
    model = network()
    average = ExponentialMovingAverage(decay=0.99).build(model)
    for _ in range(3):
        average.update_parameters(model)
    other = ExponentialMovingAverage(decay=0.99).build(copy.deepcopy(model))
    other.load_state_dict(average.state_dict())
    with torch.no_grad():
        for p in model.parameters():
            p.add_(1.0)
    average.update_parameters(model)
    other.update_parameters(model)
    for a, b in zip(average.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.equal(a, b)
