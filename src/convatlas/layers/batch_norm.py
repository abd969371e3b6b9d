"""Batch normalisation over the images of all ranks together: to a network, several devices are one. arXiv:1502.03167, Algorithm 1."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from convatlas.runtime.distributed.ranks import Ranks

_EACH = (0, 2, 3)  # all but the channels


class SyncBatchNorm2d(nn.BatchNorm2d):
    """`norm`, with its own parameters and statistics, as if the ranks' images (n, c, h, w), equally many, were one batch.

    torch's SyncBatchNorm is for GPUs alone. Statistics are taken in float32 at least. Raises ValueError when there is one value a
    channel in all.
    """

    def __init__(self, norm: nn.BatchNorm2d, ranks: Ranks):
        super().__init__(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
        self._parameters.update(norm._parameters)
        self._buffers.update(norm._buffers)
        self.training, self.ranks = norm.training, ranks
        self._standardised = torch.compiler.disable(_standardised)  # type: ignore[no-untyped-call]  # a compiler cannot look into what ranks tell each other

    def forward(self, input: Tensor) -> Tensor:
        if not (self.training or self.running_mean is None):
            return super().forward(input)
        self._check_input_dim(input)
        count = input.numel() // input.shape[1] * self.ranks.world_size
        if count < 2:
            raise ValueError(f"batch norm needs more than one value a channel in training, not {tuple(input.shape)}")
        standard, mean, variance = self._standardised(input, self.eps, self.ranks)
        if self.training:
            self._follow(mean, variance * (count / (count - 1)))
        if self.affine:
            standard = torch.addcmul(self.bias[:, None, None], standard, self.weight[:, None, None])
        result: Tensor = standard.to(input.dtype)
        return result

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        """The running statistics: the unbiased variance, and without a momentum the mean over all batches, as torch's."""
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked += 1
        weight = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean), weight)
        self.running_var.lerp_(variance.to(self.running_var), weight)


def convert_sync_batchnorm(model: nn.Module, ranks: Ranks) -> None:
    """Let every batch norm in `model` see the images of all ranks. Of one rank it does already."""
    if ranks.world_size == 1:
        return
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(parent, name, SyncBatchNorm2d(child, ranks))


class _Standardise(torch.autograd.Function):
    """x -> (x - mean) / sqrt(variance + eps) over all ranks, and both. To what x is here, all ranks' losses are sensitive: the gradient is
    that of their sum, as DistributedDataParallel, which takes the mean, expects it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float, ranks: Ranks) -> tuple[Tensor, Tensor, Tensor]:
        variances, means = torch.var_mean(x, _EACH, correction=0)
        rows = ranks.all_gather_stacked(torch.stack([means, variances]))
        mean = rows[:, 0].mean(0)
        variance = (rows[:, 1] + (rows[:, 0] - mean).square()).mean(0)  # within the ranks, and between them
        inverse = (variance + eps).rsqrt()
        standard = (x - mean[:, None, None]) * inverse[:, None, None]
        ctx.save_for_backward(standard, inverse)
        ctx.ranks = ranks
        ctx.mark_non_differentiable(mean, variance)
        return standard, mean, variance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor, None, None]:
        standard, inverse = ctx.saved_tensors
        own = torch.stack([gradient.mean(_EACH), (gradient * standard).mean(_EACH)])
        along, across = ctx.ranks.rows(own).mean(0)[:, :, None, None]
        return inverse[:, None, None] * (gradient - along - standard * across), None, None


def _standardised(x: Tensor, eps: float, ranks: Ranks) -> tuple[Tensor, Tensor, Tensor]:
    found: tuple[Tensor, Tensor, Tensor] = _Standardise.apply(  # type: ignore[no-untyped-call]
        x if x.dtype == torch.float64 else x.float(), eps, ranks
    )
    return found
