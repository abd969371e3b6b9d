"""Optimisers as records.

`build` returns torch's optimiser, or ours where torch computes something else. The schedule sets the learning
rate at every step.
"""

from typing import Any

import torch
from torch import nn

from convatlas.optim import update_rules
from convatlas.storage.records import Record


class SGD(Record, frozen=True, tag=True, kw_only=True):
    """Stochastic gradient descent: v <- momentum v + g + weight_decay w; w <- w - lr v.

    With `nesterov` w <- w - lr (g + momentum v). With `lr_in_velocity` v <- momentum v - lr (g + weight_decay
    w); w <- w + v (Krizhevsky 2012, sec. 5), which is the same until the rate changes. `decay_all=False`
    leaves parameters with one dimension (biases, batch-norm scales and shifts) out of the decay. The learning
    rate of biases is `bias_lr` times the rate. Raises ValueError for `nesterov` with the rate in the
    velocity.
    """

    lr: float
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0
    decay_all: bool = True
    lr_in_velocity: bool = False
    bias_lr: float = 1.0

    def __post_init__(self) -> None:
        if self.nesterov and not self.momentum > 0:
            raise ValueError("nesterov needs a momentum above 0: set nesterov=false, or a momentum")
        if self.nesterov and self.lr_in_velocity:
            raise ValueError(
                "nesterov has no form with the learning rate in the velocity: choose one of them"
            )

    def build(self, module: nn.Module) -> torch.optim.Optimizer:
        groups = _parameter_groups(module, self.weight_decay, self.decay_all, bias_lr=self.bias_lr)
        if self.lr_in_velocity:
            return update_rules.VelocityMomentum(groups, {"lr": self.lr, "momentum": self.momentum})
        return torch.optim.SGD(
            groups, self.lr, momentum=self.momentum, nesterov=self.nesterov, fused=_can_fuse(module)
        )


class RMSProp(Record, frozen=True, tag=True, kw_only=True):
    """s <- alpha s + (1 - alpha) g^2; w <- w - lr g / (sqrt(s) + eps), momentum as SGD's (Tieleman & Hinton
    2012, lecture 6.5).

    With `eps_inside` the denominator is sqrt(s + eps). `initial` is the first value of s. TensorFlow has
    `eps_inside`, `initial=1` and `lr_in_velocity`. Decay is coupled: g includes weight_decay w.
    `decay_depthwise=False` leaves the filters of depthwise convolutions out of it.
    """

    lr: float
    alpha: float = 0.9
    eps: float = 1e-8
    eps_inside: bool = False
    momentum: float = 0.0
    initial: float = 0.0
    lr_in_velocity: bool = False
    weight_decay: float = 0.0
    decay_all: bool = True
    decay_depthwise: bool = True

    def build(self, module: nn.Module) -> torch.optim.Optimizer:
        groups = _parameter_groups(module, self.weight_decay, self.decay_all, self.decay_depthwise)
        if self.eps_inside or self.initial or (self.lr_in_velocity and self.momentum):
            names = ("lr", "alpha", "eps", "eps_inside", "momentum", "initial", "lr_in_velocity")
            return update_rules.RMSProp(groups, {name: getattr(self, name) for name in names})
        return torch.optim.RMSprop(groups, self.lr, alpha=self.alpha, eps=self.eps, momentum=self.momentum)


class AdaGrad(Record, frozen=True, tag=True, kw_only=True):
    """s <- s + g^2; w <- w - lr g / (sqrt(s) + eps) (Duchi, Hazan, Singer 2011, JMLR 12, Fig. 1, with
    diagonal matrices)."""

    lr: float = 0.01
    eps: float = 1e-10
    weight_decay: float = 0.0
    decay_all: bool = True

    def build(self, module: nn.Module) -> torch.optim.Optimizer:
        groups = _parameter_groups(module, self.weight_decay, self.decay_all)
        return torch.optim.Adagrad(groups, self.lr, eps=self.eps)


class AdaDelta(Record, frozen=True, tag=True, kw_only=True):
    """s <- rho s + (1 - rho) g^2; d = sqrt(e + eps) / sqrt(s + eps) g; e <- rho e + (1 - rho) d^2;
    w <- w - lr d (arXiv:1212.5701, Algorithm 1, which has no learning rate: lr = 1)."""

    lr: float = 1.0
    rho: float = 0.95
    eps: float = 1e-6
    weight_decay: float = 0.0
    decay_all: bool = True

    def build(self, module: nn.Module) -> torch.optim.Optimizer:
        groups = _parameter_groups(module, self.weight_decay, self.decay_all)
        return torch.optim.Adadelta(groups, self.lr, rho=self.rho, eps=self.eps)


class Adam(Record, frozen=True, tag=True, kw_only=True):
    """m <- b1 m + (1 - b1) g; v <- b2 v + (1 - b2) g^2;
    w <- w - lr m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps) (arXiv:1412.6980, Algorithm 1)."""

    lr: float = 0.001
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    decay_all: bool = True

    def build(self, module: nn.Module) -> torch.optim.Optimizer:
        groups = _parameter_groups(module, self.weight_decay, self.decay_all)
        return torch.optim.Adam(groups, self.lr, betas=self.betas, eps=self.eps, fused=_can_fuse(module))


class Adamax(Record, frozen=True, tag=True, kw_only=True):
    """u <- max(b2 u, |g|); w <- w - lr m / (1 - b1^t) / u (arXiv:1412.6980, Algorithm 2).

    This is our own implementation: torch's adds an epsilon to |g|, which the paper does not have.
    """

    lr: float = 0.002
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    decay_all: bool = True

    def build(self, module: nn.Module) -> torch.optim.Optimizer:
        groups = _parameter_groups(module, self.weight_decay, self.decay_all)
        return update_rules.Adamax(groups, {"lr": self.lr, "betas": self.betas})


class Nadam(Record, frozen=True, tag=True, kw_only=True):
    """Adam with Nesterov's momentum (Dozat 2016, ICLR workshop, Algorithm 2 and its schedule).

    The mean is that of one step ahead; it decays with mu_t = b1 (1 - 0.96^(psi t) / 2), psi =
    `momentum_decay`. This is our own implementation: torch's mean always decays with b1, and its bias is
    corrected as if it decayed with mu_t.
    """

    lr: float = 0.002
    betas: tuple[float, float] = (0.975, 0.999)
    eps: float = 1e-8
    momentum_decay: float = 0.004
    weight_decay: float = 0.0
    decay_all: bool = True

    def build(self, module: nn.Module) -> torch.optim.Optimizer:
        groups = _parameter_groups(module, self.weight_decay, self.decay_all)
        names = ("lr", "betas", "eps", "momentum_decay")
        return update_rules.Nadam(groups, {name: getattr(self, name) for name in names})


class AMSGrad(Record, frozen=True, tag=True, kw_only=True):
    """v^ <- max(v^, v); w <- w - lr m / (sqrt(v^) + eps) (arXiv:1904.09237, Algorithm 2, which has eps = 0
    and no bias correction). With `corrected` the bias of both moments is corrected, as in torch and in most
    uses."""

    lr: float = 0.001
    betas: tuple[float, float] = (0.9, 0.99)
    eps: float = 1e-8
    corrected: bool = False
    weight_decay: float = 0.0
    decay_all: bool = True

    def build(self, module: nn.Module) -> torch.optim.Optimizer:
        groups = _parameter_groups(module, self.weight_decay, self.decay_all)
        if self.corrected:
            return torch.optim.Adam(
                groups, self.lr, betas=self.betas, eps=self.eps, amsgrad=True, fused=_can_fuse(module)
            )
        return update_rules.AMSGrad(groups, {"lr": self.lr, "betas": self.betas, "eps": self.eps})


class AdaBound(Record, frozen=True, tag=True, kw_only=True):
    """Adam with bounds on the rate of every weight; both bounds approach `final_lr`, faster with a larger
    `gamma`.

    arXiv:1902.09843, Algorithm 2, as in its authors' code; the paper's bounds have gamma = 1 - b2. `final_lr`
    changes in proportion to the learning rate.
    """

    lr: float = 0.001
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    final_lr: float = 0.1
    gamma: float = 1e-3
    weight_decay: float = 0.0
    decay_all: bool = True

    def build(self, module: nn.Module) -> torch.optim.Optimizer:
        groups = _parameter_groups(module, self.weight_decay, self.decay_all)
        names = ("lr", "betas", "eps", "final_lr", "gamma")
        defaults = {name: getattr(self, name) for name in names} | {"base_lr": self.lr}
        return update_rules.AdaBound(groups, defaults)


class AdamW(Record, frozen=True, tag=True, kw_only=True):
    """Adam with decoupled weight decay (arXiv:1711.05101); with weight_decay=0 it is Adam (arXiv:1412.6980,
    Algorithm 1)."""

    lr: float
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    decay_all: bool = False

    def build(self, module: nn.Module) -> torch.optim.Optimizer:
        groups = _parameter_groups(module, self.weight_decay, self.decay_all)
        return torch.optim.AdamW(groups, self.lr, betas=self.betas, eps=self.eps, fused=_can_fuse(module))


Optimizer = SGD | AdaGrad | AdaDelta | RMSProp | Adam | Adamax | Nadam | AMSGrad | AdamW | AdaBound


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate for the next step; that of a group with an `lr_factor` is multiplied by it."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_factor", 1.0)


def _can_fuse(module: nn.Module) -> bool:
    return not any(p.is_meta for p in module.parameters())


def _parameter_groups(
    module: nn.Module,
    weight_decay: float,
    decay_all: bool,
    decay_depthwise: bool = True,
    bias_lr: float = 1.0,
) -> list[dict[str, Any]]:
    """The trainable parameters in groups of the same decay and learning rate, in their order."""
    depthwise_ids = {
        id(layer.weight)
        for layer in module.modules()
        if isinstance(layer, nn.Conv2d) and layer.groups == layer.in_channels > 1
    }
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, p in module.named_parameters():
        if p.requires_grad:
            decays = (decay_all or p.dim() > 1) and (decay_depthwise or id(p) not in depthwise_ids)
            group_decay = weight_decay if decays else 0.0
            lr_factor = bias_lr if name.endswith("bias") else 1.0
            empty_group = {"params": [], "weight_decay": group_decay, "lr_factor": lr_factor}
            group = groups.setdefault((group_decay, lr_factor), empty_group)
            group["params"].append(p)
    return list(groups.values())
