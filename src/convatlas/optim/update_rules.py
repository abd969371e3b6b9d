"""Update rules that torch does not compute, as optimisers: their state is tensors alone, the rate is read from the groups at every step."""

from abc import abstractmethod
from collections.abc import Callable
from functools import lru_cache
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

    def decay(self, t: float, group: dict[str, Any]) -> float:
        """The mean's decay at a step: b1."""
        return float(group["betas"][0])

    def moments(self, p: Tensor, g: Tensor, state: State, group: dict[str, Any]) -> tuple[Tensor, Tensor, float]:
        if not state:
            state |= {"step": torch.zeros(()), "mean": torch.zeros_like(p), "square": torch.zeros_like(p)}
        state["step"] += 1
        t, second = state["step"].item(), group["betas"][1]
        return state["mean"].lerp_(g, 1 - self.decay(t, group)), state["square"].mul_(second).addcmul_(g, g, value=1 - second), t


class Adamax(Update):
    """u <- max(b2 u, |g|); w <- w - lr / (1 - b1^t) m / u (arXiv:1412.6980, Algorithm 2). Where u is 0, so is m, and nothing moves."""

    def move(self, p: Tensor, g: Tensor, state: State, group: dict[str, Any]) -> None:
        if not state:
            state |= {"step": torch.zeros(()), "mean": torch.zeros_like(p), "largest": torch.zeros_like(p)}
        first, second = group["betas"]
        state["step"] += 1
        mean = state["mean"].lerp_(g, 1 - first)
        largest = torch.maximum(state["largest"].mul_(second), g.abs(), out=state["largest"])
        size = largest.clamp_min(torch.finfo(p.dtype).tiny)
        p.addcdiv_(mean, size, value=-group["lr"] / (1 - first ** state["step"].item()))


class Nadam(_Moments):
    """mu_t = b1 (1 - 0.96^(psi t) / 2); m <- mu_t m + (1 - mu_t) g; w <- w - lr (mu_{t+1} m / (1 - mu_1 ... mu_{t+1}) +
    (1 - mu_t) g / (1 - mu_1 ... mu_t)) / (sqrt(v / (1 - b2^t)) + eps) (Dozat 2016, Algorithm 2).

    A slip resolved: the algorithm prints b2 v / (1 - b2^t); the author's code and his report of 2015 do not have that b2.
    """

    def decay(self, t: float, group: dict[str, Any]) -> float:
        return _mu(group["betas"][0], group["momentum_decay"], t)

    def move(self, p: Tensor, g: Tensor, state: State, group: dict[str, Any]) -> None:
        mean, square, t = self.moments(p, g, state, group)
        now, after = self.decay(t, group), self.decay(t + 1, group)
        product = _product(group["betas"][0], group["momentum_decay"], t)
        size = square.div(1 - group["betas"][1] ** t).sqrt_().add_(group["eps"])
        p.addcdiv_(mean, size, value=-group["lr"] * after / (1 - product * after))
        p.addcdiv_(g, size, value=-group["lr"] * (1 - now) / (1 - product))


def _mu(first: float, decay: float, t: float) -> float:
    return float(first * (1 - 0.5 * 0.96 ** (decay * t)))


@lru_cache(maxsize=8)  # all parameters ask for it at every step
def _product(first: float, decay: float, t: float) -> float:
    """mu_1 ... mu_t, or what is nothing beside 1."""
    product, i = 1.0, 0
    while i < t and product > 1e-20:
        i += 1
        product *= _mu(first, decay, i)
    return product


class AMSGrad(_Moments):
    """v^ <- max(v^, v); w <- w - lr m / (sqrt(v^) + eps), without correction of the bias (arXiv:1904.09237, Algorithm 2: eps is 0)."""

    def move(self, p: Tensor, g: Tensor, state: State, group: dict[str, Any]) -> None:
        mean, square, _ = self.moments(p, g, state, group)
        if "largest" not in state:
            state["largest"] = torch.zeros_like(p)
        largest = torch.maximum(state["largest"], square, out=state["largest"])
        p.addcdiv_(mean, largest.sqrt().add_(group["eps"]), value=-group["lr"])


class AdaBound(_Moments):
    """w <- w - clip(lr sqrt(1 - b2^t) / (1 - b1^t) / (sqrt(v) + eps), low, high) m, where low = f (1 - 1 / (gamma t + 1)) and high =
    f (1 + 1 / (gamma t)) (arXiv:1902.09843, Algorithm 2).

    Where its authors' code differs we follow the code: both moments are corrected for their bias, the clipped rate is not divided
    by sqrt(t), and f, which is `final_lr` at the rate `base_lr`, stays in proportion to the rate as it changes.
    """

    def move(self, p: Tensor, g: Tensor, state: State, group: dict[str, Any]) -> None:
        mean, square, t = self.moments(p, g, state, group)
        first, second = group["betas"]
        final = group["final_lr"] * group["lr"] / group["base_lr"]
        low, high = final * (1 - 1 / (group["gamma"] * t + 1)), final * (1 + 1 / (group["gamma"] * t))
        rate = group["lr"] * (1 - second**t) ** 0.5 / (1 - first**t)
        p.sub_(square.sqrt().add_(group["eps"]).reciprocal_().mul_(rate).clamp_(low, high).mul_(mean))
