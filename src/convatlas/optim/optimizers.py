"""Optimisers as records. `build` gives torch's, its learning rate set by the schedule before every step."""

from collections.abc import Iterable

import torch
from torch import nn

from convatlas.storage.records import Record


class SGD(Record, frozen=True, tag=True, kw_only=True):
    """Stochastic gradient descent. v <- momentum v + g + weight_decay w; w <- w - lr v (`nesterov`: w - lr (g + momentum v)).

    `decay_all=False` leaves parameters with one dimension (biases, batch-norm scales and shifts) out of the decay.
    """

    lr: float
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0
    decay_all: bool = True

    def build(self, module: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(
            _groups(module, self.weight_decay, self.decay_all), self.lr, momentum=self.momentum, nesterov=self.nesterov, fused=True
        )


class AdamW(Record, frozen=True, tag=True, kw_only=True):
    """Adam with decoupled weight decay (arXiv:1711.05101); with weight_decay=0 it is Adam (arXiv:1412.6980, Algorithm 1)."""

    lr: float
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    decay_all: bool = False

    def build(self, module: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.AdamW(_groups(module, self.weight_decay, self.decay_all), self.lr, betas=self.betas, eps=self.eps, fused=True)


Optimizer = SGD | AdamW


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr


def _groups(module: nn.Module, decay: float, decay_all: bool) -> list[dict[str, object]]:
    parameters = [p for p in module.parameters() if p.requires_grad]

    def group(chosen: Iterable[nn.Parameter], weight_decay: float) -> dict[str, object]:
        return {"params": list(chosen), "weight_decay": weight_decay}

    if decay_all or decay == 0:
        return [group(parameters, decay)]
    return [group((p for p in parameters if p.dim() > 1), decay), group((p for p in parameters if p.dim() <= 1), 0.0)]
