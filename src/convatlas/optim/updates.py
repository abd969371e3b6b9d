"""Update rules that torch does not compute, as optimisers: their state is tensors alone, the rate is read from the groups at every step."""

from abc import abstractmethod
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

State = dict[str, Tensor]


class Update(torch.optim.Optimizer):
    """An optimiser that moves every parameter by itself. Decay is coupled: it is part of the gradient."""

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Move every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        with torch.no_grad():
            for group in self.param_groups:
                for p in group["params"]:
                    if p.grad is not None:
                        g = p.grad.add(p, alpha=group["weight_decay"]) if group["weight_decay"] else p.grad
                        self.move(p, g, self.state[p], group)
        return loss

    @abstractmethod
    def move(self, p: Tensor, g: Tensor, state: State, group: dict[str, Any]) -> None:
        """Move `p` along its gradient `g`; `state` is empty before the first step."""


class VelocityMomentum(Update):
    """v <- momentum v - lr g; w <- w + v (Krizhevsky 2012, sec. 5)."""

    def move(self, p: Tensor, g: Tensor, state: State, group: dict[str, Any]) -> None:
        if not state:
            state["velocity"] = torch.zeros_like(p)
        p.add_(state["velocity"].mul_(group["momentum"]).sub_(g, alpha=group["lr"]))


class RMSProp(Update):
    """s <- alpha s + (1 - alpha) g^2, from `initial` on; u = g / sqrt(s + eps) or g / (sqrt(s) + eps); then v <- momentum v + lr u;
    w <- w - v, or with the rate outside v <- momentum v + u; w <- w - lr v."""

    def move(self, p: Tensor, g: Tensor, state: State, group: dict[str, Any]) -> None:
        if not state:
            state["square"] = torch.full_like(p, group["initial"])
            if group["momentum"]:
                state["velocity"] = torch.zeros_like(p)
        square = state["square"].mul_(group["alpha"]).addcmul_(g, g, value=1 - group["alpha"])
        size = square.add(group["eps"]).sqrt_() if group["eps_inside"] else square.sqrt().add_(group["eps"])
        if not group["momentum"]:
            p.addcdiv_(g, size, value=-group["lr"])
        elif group["lr_in_velocity"]:
            p.sub_(state["velocity"].mul_(group["momentum"]).addcdiv_(g, size, value=group["lr"]))
        else:
            p.sub_(state["velocity"].mul_(group["momentum"]).addcdiv_(g, size), alpha=group["lr"])


class _Moments(Update):
    """What Adam's kin share: m <- b1 m + (1 - b1) g; v <- b2 v + (1 - b2) g^2, and the number of the step."""

    def moments(self, p: Tensor, g: Tensor, state: State, group: dict[str, Any]) -> tuple[Tensor, Tensor, float]:
        if not state:
            state |= {"step": torch.zeros(()), "mean": torch.zeros_like(p), "square": torch.zeros_like(p)}
        first, second = group["betas"]
        state["step"] += 1
        return state["mean"].lerp_(g, 1 - first), state["square"].mul_(second).addcmul_(g, g, value=1 - second), state["step"].item()


class Adamax(Update):
    """u <- max(b2 u, |g|); w <- w - lr / (1 - b1^t) m / u, and where u is 0 nothing moves (arXiv:1412.6980, Algorithm 2)."""

    def move(self, p: Tensor, g: Tensor, state: State, group: dict[str, Any]) -> None:
        if not state:
            state |= {"step": torch.zeros(()), "mean": torch.zeros_like(p), "largest": torch.zeros_like(p)}
        first, second = group["betas"]
        state["step"] += 1
        mean = state["mean"].lerp_(g, 1 - first)
        largest = torch.maximum(state["largest"].mul_(second), g.abs(), out=state["largest"])
        p.sub_(torch.where(largest > 0, mean / largest, 0), alpha=group["lr"] / (1 - first ** state["step"].item()))


class Nadam(_Moments):
    """mu_t = b1 (1 - 0.96^(psi t) / 2); w <- w - lr (mu_{t+1} m / (1 - mu_1 ... mu_{t+1}) + (1 - mu_t) g / (1 - mu_1 ... mu_t)) /
    (sqrt(v / (1 - b2^t)) + eps) (Dozat 2016, Algorithm 2). torch keeps the products in float32."""

    def move(self, p: Tensor, g: Tensor, state: State, group: dict[str, Any]) -> None:
        mean, square, t = self.moments(p, g, state, group)
        first, second = group["betas"]
        now, after = _mu(first, group["momentum_decay"], int(t)), _mu(first, group["momentum_decay"], int(t) + 1)
        product = _product(first, group["momentum_decay"], int(t))
        size = square.div(1 - second**t).sqrt_().add_(group["eps"])
        p.addcdiv_(mean, size, value=-group["lr"] * after / (1 - product * after))
        p.addcdiv_(g, size, value=-group["lr"] * (1 - now) / (1 - product))


def _mu(first: float, decay: float, t: int) -> float:
    return float(first * (1 - 0.5 * 0.96 ** (decay * t)))


@cache
def _products(first: float, decay: float) -> list[float]:
    return [1.0]


def _product(first: float, decay: float, t: int) -> float:
    """mu_1 ... mu_t, each computed once."""
    known = _products(first, decay)
    while len(known) <= t:
        known.append(known[-1] * _mu(first, decay, len(known)))
    return known[t]


class AMSGrad(_Moments):
    """v^ <- max(v^, v); w <- w - lr m / sqrt(v^), without correction of the bias (arXiv:1904.09237, Algorithm 2)."""

    def move(self, p: Tensor, g: Tensor, state: State, group: dict[str, Any]) -> None:
        mean, square, _ = self.moments(p, g, state, group)
        largest = torch.maximum(state.setdefault("largest", torch.zeros_like(p)), square, out=state["largest"])
        p.addcdiv_(mean, largest.sqrt().add_(group["eps"]), value=-group["lr"])


class AdaBound(_Moments):
    """w <- w - clip(lr sqrt(1 - b2^t) / (1 - b1^t) / (sqrt(v) + eps), low, high) m, where low = f (1 - 1 / (gamma t + 1)) and high =
    f (1 + 1 / (gamma t)); f is `final_lr`, in proportion to the rate as it changes (arXiv:1902.09843, Algorithm 2, and its code)."""

    def move(self, p: Tensor, g: Tensor, state: State, group: dict[str, Any]) -> None:
        mean, square, t = self.moments(p, g, state, group)
        first, second = group["betas"]
        final = group["final_lr"] * group["lr"] / group["base_lr"]
        low, high = final * (1 - 1 / (group["gamma"] * t + 1)), final * (1 + 1 / (group["gamma"] * t))
        rate = group["lr"] * (1 - second**t) ** 0.5 / (1 - first**t)
        p.sub_(square.sqrt().add_(group["eps"]).reciprocal_().mul_(rate).clamp_(low, high).mul_(mean))
