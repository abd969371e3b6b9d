"""Averages of the weights over the steps, which are evaluated and saved in place of the last weights."""

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from convatlas.storage.records import Record


class ExponentialMovingAverage(Record, frozen=True, tag=True, kw_only=True):
    """average <- d average + (1 - d) weight, where d is `decay`.

    With `warmup` d is min(decay, (1 + n) / (10 + n)) at the n-th step (TensorFlow's ExponentialMovingAverage
    with num_updates). Batch norm's running statistics are averaged in the same way, as in the release of
    Inception.
    """

    decay: float = 0.9999
    warmup: bool = True

    def build(self, module: nn.Module) -> AveragedModel:
        def update_averages(averages: list[Tensor], weights: list[Tensor], num_averaged: Tensor) -> None:
            n = num_averaged.item()
            decay = min(self.decay, (1 + n) / (10 + n)) if self.warmup else self.decay
            for average, weight in zip(averages, weights, strict=True):
                if average.is_floating_point():
                    average.lerp_(weight, 1 - decay)
                else:
                    average.copy_(weight)

        model = AveragedModel(
            module,
            multi_avg_fn=update_averages,  # type: ignore[arg-type]
            use_buffers=True,
        )
        model.n_averaged.fill_(1)  # the average starts as the initial weights: the first step is averaged too
        return model


Averaging = ExponentialMovingAverage
