"""Update rules that torch does not have, as optimisers: their state is tensors alone, the rate is read from the groups at every step."""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class Update(torch.optim.Optimizer):
    """An optimiser that treats every parameter by itself."""

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
    def move(self, p: Tensor, g: Tensor, state: dict[str, Tensor], group: dict[str, Any]) -> None:
        """Move `p` along its gradient `g`, decay included."""


class VelocityMomentum(Update):
    """v <- momentum v - lr g; w <- w + v (Krizhevsky 2012, sec. 5)."""

    def move(self, p: Tensor, g: Tensor, state: dict[str, Tensor], group: dict[str, Any]) -> None:
        if "velocity" not in state:
            state["velocity"] = torch.zeros_like(p)
        p.add_(state["velocity"].mul_(group["momentum"]).sub_(g, alpha=group["lr"]))


class RMSProp(Update):
    """s <- alpha s + (1 - alpha) g^2; step <- g / sqrt(s + eps), or g / (sqrt(s) + eps); v <- momentum v + lr step; w <- w - v, or with
    the rate outside v <- momentum v + step; w <- w - lr v."""

    def move(self, p: Tensor, g: Tensor, state: dict[str, Tensor], group: dict[str, Any]) -> None:
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
