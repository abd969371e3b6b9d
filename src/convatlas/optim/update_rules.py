"""Update rules that torch does not compute, as optimisers.

Their state consists of tensors only; they read the learning rate from the groups at every step.
"""

from abc import abstractmethod
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

State = dict[str, Tensor]


class UpdateRule(torch.optim.Optimizer):
    """An optimiser that updates each parameter separately. Decay is coupled: it is part of the gradient."""

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        with torch.no_grad():
            for group in self.param_groups:
                for p in group["params"]:
                    if p.grad is not None:
                        g = p.grad.add(p, alpha=group["weight_decay"]) if group["weight_decay"] else p.grad
                        self.update_parameter(p, g, self.state[p], group)
        return loss

    @abstractmethod
    def update_parameter(self, p: Tensor, g: Tensor, state: State, group: dict[str, Any]) -> None:
        """Update `p` in place with its gradient `g`; `state` is empty before the first step."""


class VelocityMomentum(UpdateRule):
    """v <- momentum v - lr g; w <- w + v (Krizhevsky 2012, sec. 5)."""

    def update_parameter(self, p: Tensor, g: Tensor, state: State, group: dict[str, Any]) -> None:
        if not state:
            state["velocity"] = torch.zeros_like(p)
        p.add_(state["velocity"].mul_(group["momentum"]).sub_(g, alpha=group["lr"]))


class RMSProp(UpdateRule):
    """s <- alpha s + (1 - alpha) g^2, with `initial` as the first s; u = g / (sqrt(s) + eps), or with
    `eps_inside` g / sqrt(s + eps).

    v <- momentum v + u; w <- w - lr v, or with `lr_in_velocity` v <- momentum v + lr u; w <- w - v.
    """

    def update_parameter(self, p: Tensor, g: Tensor, state: State, group: dict[str, Any]) -> None:
        if not state:
            state["square"] = torch.full_like(p, group["initial"])
            if group["momentum"]:
                state["velocity"] = torch.zeros_like(p)
        square = state["square"].mul_(group["alpha"]).addcmul_(g, g, value=1 - group["alpha"])
        denominator = (
            square.add(group["eps"]).sqrt_() if group["eps_inside"] else square.sqrt().add_(group["eps"])
        )
        if not group["momentum"]:
            p.addcdiv_(g, denominator, value=-group["lr"])
            return
        velocity = state["velocity"].mul_(group["momentum"])
        if group["lr_in_velocity"]:
            p.sub_(velocity.addcdiv_(g, denominator, value=group["lr"]))
        else:
            p.sub_(velocity.addcdiv_(g, denominator), alpha=group["lr"])


class _AdamRule(UpdateRule):
    """The moments of Adam and its variants: m <- b1 m + (1 - b1) g; v <- b2 v + (1 - b2) g^2, and the step
    number."""

    def mean_decay(self, t: float, group: dict[str, Any]) -> float:
        """The decay of the mean at step t: b1."""
        return float(group["betas"][0])

    def update_moments(
        self, p: Tensor, g: Tensor, state: State, group: dict[str, Any]
    ) -> tuple[Tensor, Tensor, float]:
        """Update and return m and v, and return the step number t, from 1."""
        if not state:
            state |= {"step": torch.zeros(()), "mean": torch.zeros_like(p), "square": torch.zeros_like(p)}
        state["step"] += 1
        t = state["step"].item()
        beta2 = group["betas"][1]
        mean = state["mean"].lerp_(g, 1 - self.mean_decay(t, group))
        square = state["square"].mul_(beta2).addcmul_(g, g, value=1 - beta2)
        return mean, square, t


class Adamax(UpdateRule):
    """u <- max(b2 u, |g|); w <- w - lr / (1 - b1^t) m / u (arXiv:1412.6980, Algorithm 2).

    Where u is 0, m is 0 too, and the weight does not change.
    """

    def update_parameter(self, p: Tensor, g: Tensor, state: State, group: dict[str, Any]) -> None:
        if not state:
            state |= {"step": torch.zeros(()), "mean": torch.zeros_like(p), "largest": torch.zeros_like(p)}
        beta1, beta2 = group["betas"]
        state["step"] += 1
        mean = state["mean"].lerp_(g, 1 - beta1)
        largest = torch.maximum(state["largest"].mul_(beta2), g.abs(), out=state["largest"])
        denominator = largest.clamp_min(torch.finfo(p.dtype).tiny)
        p.addcdiv_(mean, denominator, value=-group["lr"] / (1 - beta1 ** state["step"].item()))


class Nadam(_AdamRule):
    """mu_t = b1 (1 - 0.96^(psi t) / 2); m <- mu_t m + (1 - mu_t) g;
    w <- w - lr (mu_{t+1} m / (1 - mu_1 ... mu_{t+1}) + (1 - mu_t) g / (1 - mu_1 ... mu_t))
    / (sqrt(v / (1 - b2^t)) + eps) (Dozat 2016, Algorithm 2).

    A slip resolved: the algorithm prints b2 v / (1 - b2^t); the author's code and his report of 2015 do not
    have that b2.
    """

    def mean_decay(self, t: float, group: dict[str, Any]) -> float:
        return _nadam_mu(group["betas"][0], group["momentum_decay"], t)

    def update_parameter(self, p: Tensor, g: Tensor, state: State, group: dict[str, Any]) -> None:
        mean, square, t = self.update_moments(p, g, state, group)
        mu, next_mu = self.mean_decay(t, group), self.mean_decay(t + 1, group)
        product = _nadam_mu_product(group["betas"][0], group["momentum_decay"], t)
        denominator = square.div(1 - group["betas"][1] ** t).sqrt_().add_(group["eps"])
        p.addcdiv_(mean, denominator, value=-group["lr"] * next_mu / (1 - product * next_mu))
        p.addcdiv_(g, denominator, value=-group["lr"] * (1 - mu) / (1 - product))


def _nadam_mu(beta1: float, momentum_decay: float, t: float) -> float:
    """mu_t."""
    return float(beta1 * (1 - 0.5 * 0.96 ** (momentum_decay * t)))


@lru_cache(maxsize=8)  # every parameter needs it at every step
def _nadam_mu_product(beta1: float, momentum_decay: float, t: float) -> float:
    """mu_1 ... mu_t; the factors stop once the product is negligible beside 1."""
    product = 1.0
    i = 0
    while i < t and product > 1e-20:
        i += 1
        product *= _nadam_mu(beta1, momentum_decay, i)
    return product


class AMSGrad(_AdamRule):
    """v^ <- max(v^, v); w <- w - lr m / (sqrt(v^) + eps), without bias correction (arXiv:1904.09237,
    Algorithm 2, which has eps = 0)."""

    def update_parameter(self, p: Tensor, g: Tensor, state: State, group: dict[str, Any]) -> None:
        mean, square, _ = self.update_moments(p, g, state, group)
        if "largest" not in state:
            state["largest"] = torch.zeros_like(p)
        largest = torch.maximum(state["largest"], square, out=state["largest"])
        p.addcdiv_(mean, largest.sqrt().add_(group["eps"]), value=-group["lr"])


class AdaBound(_AdamRule):
    """w <- w - clip(lr sqrt(1 - b2^t) / (1 - b1^t) / (sqrt(v) + eps), low, high) m, where
    low = f (1 - 1 / (gamma t + 1)) and high = f (1 + 1 / (gamma t)) (arXiv:1902.09843, Algorithm 2).

    Where the authors' code differs from the paper, we follow the code: both moments are corrected for their
    bias, the clipped rate is not divided by sqrt(t), and f, which is `final_lr` at the rate `base_lr`, stays
    in proportion to the rate as it changes.
    """

    def update_parameter(self, p: Tensor, g: Tensor, state: State, group: dict[str, Any]) -> None:
        mean, square, t = self.update_moments(p, g, state, group)
        beta1, beta2 = group["betas"]
        final_lr = group["final_lr"] * group["lr"] / group["base_lr"]
        low = final_lr * (1 - 1 / (group["gamma"] * t + 1))
        high = final_lr * (1 + 1 / (group["gamma"] * t))
        lr = group["lr"] * (1 - beta2**t) ** 0.5 / (1 - beta1**t)
        rates = square.sqrt().add_(group["eps"]).reciprocal_().mul_(lr).clamp_(low, high)
        p.sub_(rates.mul_(mean))
