"""Every optimiser in float64, step by step and with changes of the rate, against its paper's rule in
NumPy."""

import copy
import importlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.peers import import_or_skip
from helpers.small_runs import small_run
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
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
from convatlas.training.checkpoint import CheckpointManager, TrainState
from convatlas.training.metrics_log import MetricsLog
from convatlas.training.objective import Objective
from convatlas.training.run import RunFile
from convatlas.training.run_folder import RunFolder

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


def momentum_with_lr_in_velocity(w: Array, steps: Iterator[tuple[Array, float]]) -> Iterator[Array]:
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


def rmsprop(
    eps: float = 1e-8,
    eps_inside: bool = False,
    momentum: float = 0.0,
    initial: float = 0.0,
    lr_in_velocity: bool = False,
) -> Rule:
    def rule(w: Array, steps: Iterator[tuple[Array, float]]) -> Iterator[Array]:
        s, v = np.full_like(w, initial), np.zeros_like(w)
        for g, lr in steps:
            s = 0.9 * s + 0.1 * g**2
            u = g / np.sqrt(s + eps) if eps_inside else g / (np.sqrt(s) + eps)
            v = momentum * v + (lr * u if lr_in_velocity else u)
            w = w - (v if lr_in_velocity else lr * v)
            yield w

    return rule


def adam(beta1: float, beta2: float, decoupled: float = 0.0, amsgrad: bool = False) -> Rule:
    def rule(w: Array, steps: Iterator[tuple[Array, float]]) -> Iterator[Array]:
        m = v = max_v = np.zeros_like(w)
        for t, (g, lr) in enumerate(steps, start=1):
            w = w - lr * decoupled * w
            m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g**2
            max_v = np.maximum(max_v, v)
            corrected = (max_v if amsgrad else v) / (1 - beta2**t)
            w = w - lr * (m / (1 - beta1**t)) / (np.sqrt(corrected) + 1e-8)
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
        return float(0.975 * (1 - 0.5 * 0.96 ** (t * 0.004)))

    product = 1.0
    for t, (g, lr) in enumerate(steps, start=1):
        product *= mu(t)
        m, v = mu(t) * m + (1 - mu(t)) * g, 0.999 * v + 0.001 * g**2
        ahead = mu(t + 1) * m / (1 - product * mu(t + 1)) + (1 - mu(t)) * g / (1 - product)
        w = w - lr * ahead / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        yield w


def amsgrad(w: Array, steps: Iterator[tuple[Array, float]]) -> Iterator[Array]:
    m = v = max_v = np.zeros_like(w)
    for g, lr in steps:
        m, v = 0.9 * m + 0.1 * g, 0.99 * v + 0.01 * g**2
        max_v = np.maximum(max_v, v)
        w = w - lr * m / np.sqrt(max_v)
        yield w


def adabound(w: Array, steps: Iterator[tuple[Array, float]]) -> Iterator[Array]:
    m = v = np.zeros_like(w)
    for t, (g, lr) in enumerate(steps, start=1):
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        final_lr = 0.1 * lr / RATES[0]
        low, high = final_lr * (1 - 1 / (1e-3 * t + 1)), final_lr * (1 + 1 / (1e-3 * t))
        rate = lr * np.sqrt(1 - 0.999**t) / (1 - 0.9**t) / (np.sqrt(v) + 1e-8)
        w = w - np.clip(rate, low, high) * m
        yield w


LR = RATES[0]
CASES: dict[str, tuple[Optimizer, Rule]] = {
    "gradient descent": (SGD(lr=LR, weight_decay=DECAY), sgd(0.0)),
    "momentum": (SGD(lr=LR, momentum=0.9, weight_decay=DECAY), sgd(0.9)),
    "nesterov": (SGD(lr=LR, momentum=0.9, nesterov=True, weight_decay=DECAY), sgd(0.9, nesterov=True)),
    "alexnet's momentum": (
        SGD(lr=LR, momentum=0.9, lr_in_velocity=True, weight_decay=DECAY),
        momentum_with_lr_in_velocity,
    ),
    "adagrad": (AdaGrad(lr=LR, weight_decay=DECAY), adagrad),
    "adadelta": (AdaDelta(lr=LR, weight_decay=DECAY), adadelta),
    "rmsprop": (RMSProp(lr=LR, weight_decay=DECAY), rmsprop()),
    "rmsprop with momentum": (RMSProp(lr=LR, momentum=0.9, weight_decay=DECAY), rmsprop(momentum=0.9)),
    "rmsprop from one": (RMSProp(lr=LR, initial=1.0, weight_decay=DECAY), rmsprop(initial=1.0)),
    "rmsprop, rate in the velocity": (
        RMSProp(lr=LR, momentum=0.9, lr_in_velocity=True, weight_decay=DECAY),
        rmsprop(momentum=0.9, lr_in_velocity=True),
    ),
    "rmsprop, epsilon inside": (
        RMSProp(lr=LR, eps=1.0, eps_inside=True, weight_decay=DECAY),
        rmsprop(eps=1.0, eps_inside=True),
    ),
    "rmsprop, epsilon inside, momentum": (
        RMSProp(lr=LR, eps=0.1, eps_inside=True, momentum=0.9, weight_decay=DECAY),
        rmsprop(eps=0.1, eps_inside=True, momentum=0.9),
    ),
    "tensorflow's rmsprop": (
        RMSProp(
            lr=LR,
            eps=1.0,
            eps_inside=True,
            momentum=0.9,
            initial=1.0,
            lr_in_velocity=True,
            weight_decay=DECAY,
        ),
        rmsprop(eps=1.0, eps_inside=True, momentum=0.9, initial=1.0, lr_in_velocity=True),
    ),
    "adam": (Adam(lr=LR, weight_decay=DECAY), adam(0.9, 0.999)),
    "adamax": (Adamax(lr=LR, weight_decay=DECAY), adamax),
    "nadam": (Nadam(lr=LR, weight_decay=DECAY), nadam),
    "amsgrad": (AMSGrad(lr=LR, eps=0.0, weight_decay=DECAY), amsgrad),
    "amsgrad, corrected": (AMSGrad(lr=LR, corrected=True, weight_decay=DECAY), adam(0.9, 0.99, amsgrad=True)),
    "adamw": (AdamW(lr=LR, weight_decay=DECAY), adam(0.9, 0.999, decoupled=DECAY)),
    "adabound": (AdaBound(lr=LR, weight_decay=DECAY), adabound),
}


class Weights(nn.Module):
    def __init__(self, w: Array) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(w))


class SavedModule(Objective):
    """A module as an objective without losses, for checkpoints."""

    def __init__(self, module: nn.Module) -> None:
        nn.Module.__init__(self)
        self.module = module

    def weights(self) -> dict[str, torch.Tensor]:
        return self.module.state_dict()

    def load_weights(self, tensors: Mapping[str, torch.Tensor]) -> None:
        self.module.load_state_dict({name: tensors[name] for name in self.module.state_dict()})


def check_against_rule(name: str, device: str = "cpu") -> None:
    """Compare ten steps with the rule; errors are relative to each weight and to its change since the
    start."""
    record, rule = CASES[name]
    rng = np.random.default_rng(0)
    w = rng.normal(size=(4, 3))
    gradients = rng.normal(size=(len(RATES), 4, 3)) * np.logspace(-2, 1, 12).reshape(4, 3)
    module = Weights(w).to(device)
    optimizer = record.build(module)
    coupled = 0.0 if isinstance(record, AdamW) else DECAY
    current = [w]  # the weights of the rule's next gradient

    def steps() -> Iterator[tuple[Array, float]]:
        for g, lr in zip(gradients, RATES, strict=True):
            yield g + coupled * current[0], lr

    for g, lr, expected in zip(gradients, RATES, rule(w, steps()), strict=True):
        module.weight.grad = torch.tensor(g, device=device)
        set_lr(optimizer, lr)
        optimizer.step()
        current[0] = expected
        weight = module.weight.detach().cpu().numpy()
        np.testing.assert_allclose(weight, expected, rtol=1e-10, atol=1e-15)
        np.testing.assert_allclose(weight - w, expected - w, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("name", CASES)
def test_it_follows_its_papers_rule_to_ten_digits(name: str) -> None:
    check_against_rule(name)


@pytest.mark.gpu
def test_on_a_cuda_device_it_follows_the_same_rule(cuda: torch.device) -> None:
    for name in CASES:
        check_against_rule(name, cuda.type)


@pytest.mark.parametrize(
    ("record", "torch_class", "scale"),
    [
        (Adamax(), torch.optim.Adamax, 1e-7),  # torch adds an epsilon to the gradient
        (Nadam(betas=(0.9, 0.999)), torch.optim.NAdam, 1.0),  # torch's mean has no scheduled decay
        (
            AMSGrad(betas=(0.9, 0.999)),
            partial(torch.optim.Adam, amsgrad=True),
            1.0,
        ),  # torch corrects both moments
    ],
    ids=["adamax", "nadam", "amsgrad"],
)
def test_our_own_rules_differ_from_torchs(
    record: Optimizer, torch_class: Callable[..., torch.optim.Optimizer], scale: float
) -> None:
    module = Weights(np.zeros((4, 3)))
    torch_module = Weights(np.zeros((4, 3)))
    torch_optimizer = torch_class(torch_module.parameters(), lr=record.lr)
    pairs = [(module, record.build(module)), (torch_module, torch_optimizer)]
    generator = torch.Generator().manual_seed(0)
    for g in scale * torch.randn(8, 4, 3, generator=generator, dtype=torch.float64):
        for weights, optimizer in pairs:
            weights.weight.grad = g.clone()
            optimizer.step()
    assert not torch.allclose(module.weight, torch_module.weight, rtol=1e-3, atol=0)


@pytest.mark.parametrize("name", CASES)
def test_it_continues_from_a_checkpoint_as_if_never_stopped(name: str, tmp_path: Path) -> None:
    """The state dict of the checkpoint contains only tensors."""

    def build() -> nn.Module:
        layer = nn.Conv2d(2, 3, 3)
        layer.weight.data = layer.weight.data.to(memory_format=torch.channels_last)
        return nn.Sequential(layer, nn.BatchNorm2d(3), nn.Linear(3, 2))

    def train(module: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
        for step in steps:
            rng = torch.Generator().manual_seed(step)
            for p in module.parameters():
                p.grad = torch.empty_like(p).copy_(torch.randn(p.shape, generator=rng))
            set_lr(optimizer, RATES[step])
            optimizer.step()

    record, _ = CASES[name]
    uninterrupted = build()
    first = copy.deepcopy(uninterrupted)
    second = build()
    optimizer = record.build(uninterrupted)
    train(uninterrupted, optimizer, range(8))
    before = record.build(first)
    train(first, before, range(4))
    folder = RunFolder(tmp_path, RunFile(run=small_run(), environment={}))
    folder.checkpoints.mkdir()
    checkpoints = CheckpointManager(folder, MetricsLog())
    checkpoints.save(TrainState(step=4), SavedModule(first), before)
    checkpoints.wait()
    after = record.build(second)
    assert checkpoints.load(SavedModule(second), after).step == 4
    train(second, after, range(4, 8))
    parameters = zip(uninterrupted.parameters(), second.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in parameters)
    expected, state = optimizer.state_dict()["state"], after.state_dict()["state"]
    assert expected.keys() == state.keys()
    for index, tensors in expected.items():
        assert tensors.keys() == state[index].keys()
        assert all(torch.equal(tensor, state[index][key]) for key, tensor in tensors.items())


@pytest.mark.parametrize(
    "name", ["alexnet's momentum", "tensorflow's rmsprop", "adamax", "nadam", "amsgrad", "adabound"]
)
def test_our_own_rules_skip_missing_gradients_and_return_the_closures_loss(name: str) -> None:
    module = nn.Linear(3, 2)
    bias = module.bias.detach().clone()
    weight = module.weight.detach().clone()
    optimizer = CASES[name][0].build(module)

    def closure() -> float:
        optimizer.zero_grad()
        loss = (module.weight**2).sum()
        torch.autograd.backward(loss)
        return loss.item()

    assert optimizer.step(closure) == (weight**2).sum().item()
    assert torch.equal(module.bias, bias)
    assert (module.weight != weight).all()


def test_adamax_does_not_change_weights_whose_gradients_are_all_zero() -> None:
    module = Weights(np.ones((4, 3)))
    optimizer = Adamax().build(module)
    module.weight.grad = torch.zeros(4, 3, dtype=torch.float64)
    module.weight.grad[0] = 1.0
    optimizer.step()
    assert torch.equal(module.weight[1:], torch.ones(3, 3, dtype=torch.float64))
    torch.testing.assert_close(module.weight[0], torch.full((3,), 1 - 0.002, dtype=torch.float64))


@given(st.lists(st.floats(-3, 3), min_size=2, max_size=8), st.floats(0.5, 0.95), st.floats(0.01, 3))
def test_with_the_rate_in_the_velocity_a_new_rate_keeps_the_velocity(
    gradients: list[float], momentum: float, change: float
) -> None:
    """The two forms agree until the rate changes; then they differ by the velocity's part of the step."""

    def trajectory(record: Optimizer) -> list[float]:
        module = Weights(np.ones(1))
        optimizer = record.build(module)
        weights = [1.0]
        for g in gradients:
            set_lr(optimizer, 0.1 * (change if len(weights) == len(gradients) else 1))
            module.weight.grad = torch.tensor([g], dtype=torch.float64)
            optimizer.step()
            weights.append(module.weight.item())
        return weights

    sgd = SGD(lr=0.1, momentum=momentum)
    tensorflow = RMSProp(lr=0.1, momentum=momentum, eps_inside=True, eps=1.0)
    for record in (sgd, tensorflow):
        outside = trajectory(record)
        inside = trajectory(record.replace(lr_in_velocity=True))
        assert inside[:-1] == pytest.approx(outside[:-1], abs=1e-12)
        momentum_step = momentum * (outside[-2] - outside[-3])
        assert inside[-1] - outside[-1] == pytest.approx((1 - change) * momentum_step, abs=1e-12)


def test_tensorflows_rmsprop_equals_timms() -> None:
    import_or_skip("timm")
    timm_optim = importlib.import_module("timm.optim")
    module = Weights(np.ones((4, 3)))
    record = RMSProp(
        lr=0.05, eps=1.0, eps_inside=True, momentum=0.9, initial=1.0, lr_in_velocity=True, weight_decay=4e-5
    )
    timm_module = Weights(np.ones((4, 3)))
    timm_optimizer = timm_optim.RMSpropTF(
        timm_module.parameters(),
        lr=0.05,
        alpha=0.9,
        eps=1.0,
        momentum=0.9,
        weight_decay=4e-5,
        decoupled_decay=False,
        lr_in_momentum=True,
    )
    pairs = [(module, record.build(module)), (timm_module, timm_optimizer)]
    gradients = torch.randn(8, 4, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for step, g in enumerate(gradients):
        for weights, optimizer in pairs:
            weights.weight.grad = g.clone()
            set_lr(optimizer, RATES[step])
            optimizer.step()
    torch.testing.assert_close(module.weight, timm_module.weight, rtol=1e-12, atol=1e-12)


def test_parameters_left_out_of_the_decay_do_not_decay() -> None:
    def decrease(record: Optimizer) -> dict[str, float]:
        layers = nn.Sequential(nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 4, 1))
        for p in layers.parameters():
            p.data.fill_(1.0)
            p.grad = torch.zeros_like(p)
        record.build(layers).step()
        return {name: 1 - p.flatten()[0].item() for name, p in layers.named_parameters()}

    every_parameter = decrease(SGD(lr=0.1, weight_decay=0.5))
    assert every_parameter == pytest.approx(dict.fromkeys(("0.weight", "0.bias", "1.weight", "1.bias"), 0.05))
    weights = decrease(SGD(lr=0.1, weight_decay=0.5, decay_all=False))
    assert weights == pytest.approx({"0.weight": 0.05, "0.bias": 0, "1.weight": 0.05, "1.bias": 0})
    record = RMSProp(lr=0.1, eps=1.0, weight_decay=0.5, decay_all=False, decay_depthwise=False)
    dense = decrease(record)
    assert dense["0.weight"] == dense["0.bias"] == dense["1.bias"] == 0 < dense["1.weight"]


def test_the_lr_factor_of_a_group_applies_to_every_rate() -> None:
    layer = nn.Linear(1, 1)
    optimizer = SGD(lr=0.1, bias_lr=2.0).build(layer)
    for rate in (0.1, 0.5):
        set_lr(optimizer, rate)
        assert sorted(group["lr"] for group in optimizer.param_groups) == pytest.approx([rate, 2 * rate])


def test_nesterov_with_the_rate_in_the_velocity_is_refused() -> None:
    with pytest.raises(ValueError, match="choose one of them"):
        SGD(lr=0.1, momentum=0.9, nesterov=True, lr_in_velocity=True)


def test_frozen_parameters_are_in_no_group_of_the_optimizer() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    module[0].requires_grad_(False)
    groups = SGD(lr=0.1, momentum=0.9).build(module).param_groups
    assert [id(p) for group in groups for p in group["params"]] == [id(p) for p in module[1].parameters()]
