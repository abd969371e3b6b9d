"""Every optimiser, step by step in float64, against its paper's rule written out with NumPy, through changes of the rate."""

import importlib
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from peers import peer
from torch import nn

from convatlas.optim.optimizers import (
    SGD,
    AdaBound,
    AdaDelta,
    AdaGrad,
    Adam,
    Adamax,
    AdamW,
    AMSGrad,
    Nadam,
    Optimizer,
    RMSProp,
    set_lr,
)
from convatlas.training.folder import _load

Array = NDArray[np.float64]
Rule = Callable[[Array, Iterator[tuple[Array, float]]], Iterator[Array]]
RATES = (0.1, 0.1, 0.3, 0.05, 0.05, 0.2, 0.01, 0.1, 0.1, 0.1)
DECAY = 0.01


def sgd(momentum: float, nesterov: bool = False) -> Rule:
    def rule(w: Array, steps: Iterator[tuple[Array, float]]) -> Iterator[Array]:
        v = np.zeros_like(w)
        for g, lr in steps:
            v = momentum * v + g
            w = w - lr * (g + momentum * v if nesterov else v)
            yield w

    return rule


def alexnet(w: Array, steps: Iterator[tuple[Array, float]]) -> Iterator[Array]:
    v = np.zeros_like(w)
    for g, lr in steps:
        v = 0.9 * v - lr * g
        w = w + v
        yield w


def adagrad(w: Array, steps: Iterator[tuple[Array, float]]) -> Iterator[Array]:
    s = np.zeros_like(w)
    for g, lr in steps:
        s = s + g**2
        w = w - lr * g / (np.sqrt(s) + 1e-10)
        yield w


def adadelta(w: Array, steps: Iterator[tuple[Array, float]]) -> Iterator[Array]:
    s = e = np.zeros_like(w)
    for g, lr in steps:
        s = 0.95 * s + 0.05 * g**2
        d = np.sqrt(e + 1e-6) / np.sqrt(s + 1e-6) * g
        e = 0.95 * e + 0.05 * d**2
        w = w - lr * d
        yield w


def rmsprop(eps: float, inside: bool, momentum: float, initial: float, rate_inside: bool) -> Rule:
    def rule(w: Array, steps: Iterator[tuple[Array, float]]) -> Iterator[Array]:
        s, v = np.full_like(w, initial), np.zeros_like(w)
        for g, lr in steps:
            s = 0.9 * s + 0.1 * g**2
            u = g / np.sqrt(s + eps) if inside else g / (np.sqrt(s) + eps)
            v = momentum * v + (lr * u if rate_inside else u)
            w = w - (v if rate_inside else lr * v)
            yield w

    return rule


def adam(first: float, second: float, decoupled: float = 0.0, largest: bool = False) -> Rule:
    def rule(w: Array, steps: Iterator[tuple[Array, float]]) -> Iterator[Array]:
        m = v = top = np.zeros_like(w)
        for t, (g, lr) in enumerate(steps, start=1):
            w = w - lr * decoupled * w
            m, v = first * m + (1 - first) * g, second * v + (1 - second) * g**2
            top = np.maximum(top, v)
            corrected = (top if largest else v) / (1 - second**t)
            w = w - lr * (m / (1 - first**t)) / (np.sqrt(corrected) + 1e-8)
            yield w

    return rule


def adamax(w: Array, steps: Iterator[tuple[Array, float]]) -> Iterator[Array]:
    m = u = np.zeros_like(w)
    for t, (g, lr) in enumerate(steps, start=1):
        m, u = 0.9 * m + 0.1 * g, np.maximum(0.999 * u, np.abs(g))
        w = w - lr / (1 - 0.9**t) * m / u
        yield w


def nadam(w: Array, steps: Iterator[tuple[Array, float]]) -> Iterator[Array]:
    m = v = np.zeros_like(w)

    def mu(t: int) -> float:
        return 0.975 * (1 - 0.5 * 0.96 ** (t * 0.004))

    product = 1.0
    for t, (g, lr) in enumerate(steps, start=1):
        product *= mu(t)
        m, v = 0.975 * m + 0.025 * g, 0.999 * v + 0.001 * g**2
        ahead = mu(t + 1) * m / (1 - product * mu(t + 1)) + (1 - mu(t)) * g / (1 - product)
        w = w - lr * ahead / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        yield w


def amsgrad(w: Array, steps: Iterator[tuple[Array, float]]) -> Iterator[Array]:
    m = v = top = np.zeros_like(w)
    for g, lr in steps:
        m, v = 0.9 * m + 0.1 * g, 0.99 * v + 0.01 * g**2
        top = np.maximum(top, v)
        w = w - lr * m / np.sqrt(top)
        yield w


def adabound(w: Array, steps: Iterator[tuple[Array, float]]) -> Iterator[Array]:
    m = v = np.zeros_like(w)
    for t, (g, lr) in enumerate(steps, start=1):
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        final = 0.1 * lr / RATES[0]
        low, high = final * (1 - 1 / (1e-3 * t + 1)), final * (1 + 1 / (1e-3 * t))
        rate = lr * np.sqrt(1 - 0.999**t) / (1 - 0.9**t) / (np.sqrt(v) + 1e-8)
        w = w - np.clip(rate, low, high) * m
        yield w


LR = RATES[0]
CASES: dict[str, tuple[Optimizer, Rule]] = {
    "gradient descent": (SGD(lr=LR, weight_decay=DECAY), sgd(0.0)),
    "momentum": (SGD(lr=LR, momentum=0.9, weight_decay=DECAY), sgd(0.9)),
    "nesterov": (SGD(lr=LR, momentum=0.9, nesterov=True, weight_decay=DECAY), sgd(0.9, nesterov=True)),
    "alexnet's momentum": (SGD(lr=LR, momentum=0.9, lr_in_velocity=True, weight_decay=DECAY), alexnet),
    "adagrad": (AdaGrad(lr=LR, weight_decay=DECAY), adagrad),
    "adadelta": (AdaDelta(lr=LR, weight_decay=DECAY), adadelta),
    "rmsprop": (RMSProp(lr=LR, weight_decay=DECAY), rmsprop(1e-8, False, 0.0, 0.0, False)),
    "rmsprop with momentum": (RMSProp(lr=LR, momentum=0.9, weight_decay=DECAY), rmsprop(1e-8, False, 0.9, 0.0, False)),
    "rmsprop, epsilon inside": (RMSProp(lr=LR, eps=1.0, eps_inside=True, weight_decay=DECAY), rmsprop(1.0, True, 0.0, 0.0, False)),
    "rmsprop, epsilon inside, momentum": (
        RMSProp(lr=LR, eps=0.1, eps_inside=True, momentum=0.9, weight_decay=DECAY),
        rmsprop(0.1, True, 0.9, 0.0, False),
    ),
    "tensorflow's rmsprop": (
        RMSProp(lr=LR, eps=1.0, eps_inside=True, momentum=0.9, initial=1.0, lr_in_velocity=True, weight_decay=DECAY),
        rmsprop(1.0, True, 0.9, 1.0, True),
    ),
    "adam": (Adam(lr=LR, weight_decay=DECAY), adam(0.9, 0.999)),
    "adamax": (Adamax(lr=LR, weight_decay=DECAY), adamax),
    "nadam": (Nadam(lr=LR, weight_decay=DECAY), nadam),
    "amsgrad": (AMSGrad(lr=LR, eps=0.0, weight_decay=DECAY), amsgrad),
    "amsgrad, corrected": (AMSGrad(lr=LR, corrected=True, weight_decay=DECAY), adam(0.9, 0.99, largest=True)),
    "adamw": (AdamW(lr=LR, weight_decay=DECAY), adam(0.9, 0.999, decoupled=DECAY)),
    "adabound": (AdaBound(lr=LR, weight_decay=DECAY), adabound),
}


class Weights(nn.Module):
    def __init__(self, w: Array) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(w))


@pytest.mark.parametrize("name", CASES)
def test_it_is_its_papers_rule_to_ten_digits(name: str) -> None:
    record, rule = CASES[name]
    rng = np.random.default_rng(0)
    w, gradients = rng.normal(size=(4, 3)), rng.normal(size=(len(RATES), 4, 3)) * np.logspace(-2, 1, 12).reshape(4, 3)
    module = Weights(w)
    optimizer = record.build(module)
    coupled = 0.0 if isinstance(record, AdamW) else DECAY
    now = [w]  # what the rule's gradient is taken at

    def steps() -> Iterator[tuple[Array, float]]:
        for g, lr in zip(gradients, RATES, strict=True):
            yield g + coupled * now[0], lr

    for g, lr, expected in zip(gradients, RATES, rule(w, steps()), strict=True):
        module.weight.grad = torch.tensor(g)
        set_lr(optimizer, lr)
        optimizer.step()
        now[0] = expected
        np.testing.assert_allclose(module.weight.detach(), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_it_continues_from_the_tensors_of_its_state_alone_as_if_never_stopped(name: str) -> None:
    """As a checkpoint keeps it."""
    record, _ = CASES[name]
    gradients = torch.randn(8, 4, 3, generator=torch.Generator().manual_seed(0))
    whole, half = Weights(np.ones((4, 3))), Weights(np.ones((4, 3)))
    whole.float(), half.float()
    straight, first = record.build(whole), record.build(half)
    for step, g in enumerate(gradients):
        if step == 4:
            state = first.state_dict()["state"]
            kept = {f"optimizer.{i}.{key}": value.clone() for i, values in state.items() for key, value in values.items()}
            first = record.build(half)
            _load(kept, first)
        for module, optimizer in ((whole, straight), (half, first)):
            module.weight.grad = g.clone()
            set_lr(optimizer, RATES[step])
            optimizer.step()
    assert torch.equal(whole.weight, half.weight)


@given(st.lists(st.floats(-3, 3), min_size=3, max_size=8), st.floats(0.5, 0.95))
@settings(max_examples=30, deadline=None)
def test_the_rate_inside_the_velocity_or_outside_is_the_same_until_it_changes(gradients: list[float], momentum: float) -> None:
    def path(record: Optimizer, change: float) -> list[float]:
        module = Weights(np.ones(1))
        optimizer, seen = record.build(module), []
        for step, g in enumerate([*gradients, 1.0]):
            module.weight.grad = torch.tensor([g], dtype=torch.float64)
            set_lr(optimizer, 0.1 * (change if step > 1 else 1))
            optimizer.step()
            seen.append(module.weight.item())
        return seen

    pairs: list[tuple[Optimizer, Optimizer]] = [
        (SGD(lr=0.1, momentum=momentum, lr_in_velocity=True), SGD(lr=0.1, momentum=momentum)),
        (
            RMSProp(lr=0.1, momentum=momentum, eps_inside=True, eps=1.0, lr_in_velocity=True),
            RMSProp(lr=0.1, momentum=momentum, eps_inside=True, eps=1.0),
        ),
    ]
    for inside, outside in pairs:
        assert path(inside, 1.0) == pytest.approx(path(outside, 1.0), abs=1e-12)
        if abs(gradients[0] + gradients[1]) > 0.5 and abs(gradients[0]) < abs(gradients[1]):
            assert path(inside, 0.1)[2] != pytest.approx(path(outside, 0.1)[2], abs=1e-6)


def test_tensorflows_rmsprop_is_timms() -> None:
    peer("timm")
    timm_optim = importlib.import_module("timm.optim")
    mine, theirs = Weights(np.ones((4, 3))), Weights(np.ones((4, 3)))
    ours = RMSProp(lr=0.05, eps=1.0, eps_inside=True, momentum=0.9, initial=1.0, lr_in_velocity=True, weight_decay=4e-5).build(mine)
    timms = timm_optim.RMSpropTF(
        theirs.parameters(), lr=0.05, alpha=0.9, eps=1.0, momentum=0.9, weight_decay=4e-5, decoupled_decay=False, lr_in_momentum=True
    )
    for step, g in enumerate(torch.randn(8, 4, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)):
        for module, optimizer in ((mine, ours), (theirs, timms)):
            module.weight.grad = g.clone()
            set_lr(optimizer, RATES[step])
            optimizer.step()
    torch.testing.assert_close(mine.weight, theirs.weight, rtol=1e-12, atol=1e-12)


def test_what_a_record_leaves_out_of_the_decay_does_not_decay() -> None:
    def moved(record: Optimizer) -> dict[str, float]:
        layers = nn.Sequential(nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 4, 1))
        for p in layers.parameters():
            p.data.fill_(1.0)
            p.grad = torch.zeros_like(p)
        record.build(layers).step()
        return {name: 1 - p.flatten()[0].item() for name, p in layers.named_parameters()}

    assert moved(SGD(lr=0.1, weight_decay=0.5)) == pytest.approx(dict.fromkeys(("0.weight", "0.bias", "1.weight", "1.bias"), 0.05))
    weights = moved(SGD(lr=0.1, weight_decay=0.5, decay_all=False))
    assert weights == pytest.approx({"0.weight": 0.05, "0.bias": 0, "1.weight": 0.05, "1.bias": 0})
    dense = moved(RMSProp(lr=0.1, eps=1.0, weight_decay=0.5, decay_all=False, decay_depthwise=False))
    assert dense["0.weight"] == dense["0.bias"] == dense["1.bias"] == 0 < dense["1.weight"]


def test_a_factor_of_a_group_holds_through_every_change_of_the_rate() -> None:
    layer = nn.Linear(1, 1)
    optimizer = SGD(lr=0.1, bias_lr=2.0).build(layer)
    for rate in (0.1, 0.5):
        set_lr(optimizer, rate)
        assert sorted(group["lr"] for group in optimizer.param_groups) == pytest.approx([rate, 2 * rate])


def test_nesterov_with_the_rate_in_the_velocity_is_refused() -> None:
    with pytest.raises(ValueError, match="choose one of them"):
        SGD(lr=0.1, momentum=0.9, nesterov=True, lr_in_velocity=True)


def test_frozen_parameters_are_not_the_optimizers_business() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    module[0].requires_grad_(False)
    groups = SGD(lr=0.1, momentum=0.9).build(module).param_groups
    assert [id(p) for group in groups for p in group["params"]] == [id(p) for p in module[1].parameters()]
