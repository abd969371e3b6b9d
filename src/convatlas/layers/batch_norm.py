"""Batch normalisation over the images of all ranks, as if one device had them.

arXiv:1502.03167, Algorithm 1.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from convatlas.runtime.distributed.ranks import Ranks

_ALL_BUT_CHANNELS = (0, 2, 3)


class SyncBatchNorm2d(nn.BatchNorm2d):
    """`norm` with its own parameters and statistics, over the images (n, c, h, w) of all ranks as one batch.

    Every rank has the same number of images. torch's SyncBatchNorm is for GPUs only. Statistics are computed
    in float32 at least. Raises ValueError when a channel has one value over all ranks.
    """

    def __init__(self, norm: nn.BatchNorm2d, ranks: Ranks):
        super().__init__(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
        self._parameters.update(norm._parameters)
        self._buffers.update(norm._buffers)
        self.training = norm.training
        self.ranks = ranks
        # a compiler cannot trace the communication between ranks
        self._normalize = torch.compiler.disable(_normalize)  # type: ignore[no-untyped-call]

    def forward(self, input: Tensor) -> Tensor:
        if not (self.training or self.running_mean is None):
            return super().forward(input)
        self._check_input_dim(input)
        count = input.numel() // input.shape[1] * self.ranks.world_size
        if count < 2:
            raise ValueError(
                f"batch norm needs more than one value a channel in training, not {tuple(input.shape)}"
            )
        normalized, mean, variance = self._normalize(input, self.eps, self.ranks)
        if self.training:
            self._update_running_statistics(mean, variance * (count / (count - 1)))
        if self.affine:
            normalized = torch.addcmul(self.bias[:, None, None], normalized, self.weight[:, None, None])
        output: Tensor = normalized.to(input.dtype)
        return output

    @torch.no_grad()
    def _update_running_statistics(self, mean: Tensor, variance: Tensor) -> None:
        """Update the running statistics as torch does: with the unbiased variance, and without a momentum as
        the mean over all batches."""
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked += 1
        weight = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean), weight)
        self.running_var.lerp_(variance.to(self.running_var), weight)


def convert_sync_batchnorm(model: nn.Module, ranks: Ranks) -> None:
    """Replace every batch norm in `model` by one over the images of all ranks, if there are several."""
    if ranks.world_size == 1:
        return
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(parent, name, SyncBatchNorm2d(child, ranks))


class _Normalize(torch.autograd.Function):
    """x -> (x - mean) / sqrt(variance + eps), mean, variance, with the statistics of all ranks.

    The losses of all ranks depend on this rank's x. The gradient is that of their sum:
    DistributedDataParallel, which takes the mean, expects it.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float, ranks: Ranks) -> tuple[Tensor, Tensor, Tensor]:
        rank_variance, rank_mean = torch.var_mean(x, _ALL_BUT_CHANNELS, correction=0)
        means, variances = ranks.all_gather_stacked(torch.stack([rank_mean, rank_variance])).unbind(1)
        mean = means.mean(0)
        variance = (variances + (means - mean).square()).mean(0)  # within the ranks, and between them
        inverse_std = (variance + eps).rsqrt()
        normalized = (x - mean[:, None, None]) * inverse_std[:, None, None]
        ctx.save_for_backward(normalized, inverse_std)
        ctx.ranks = ranks
        ctx.mark_non_differentiable(mean, variance)
        return normalized, mean, variance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor, None, None]:
        normalized, inverse_std = ctx.saved_tensors
        rank_means = torch.stack(
            [gradient.mean(_ALL_BUT_CHANNELS), (gradient * normalized).mean(_ALL_BUT_CHANNELS)]
        )
        gradient_mean, product_mean = ctx.ranks.all_gather_stacked(rank_means).mean(0)[:, :, None, None]
        return inverse_std[:, None, None] * (gradient - gradient_mean - normalized * product_mean), None, None


def _normalize(x: Tensor, eps: float, ranks: Ranks) -> tuple[Tensor, Tensor, Tensor]:
    x = x if x.dtype == torch.float64 else x.float()
    outputs: tuple[Tensor, Tensor, Tensor] = _Normalize.apply(x, eps, ranks)  # type: ignore[no-untyped-call]
    return outputs
