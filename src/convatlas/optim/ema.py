"""Averages of the weights over the steps, which are evaluated and saved in place of the last ones."""

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from convatlas.storage.records import Record


class ExponentialAverage(Record, frozen=True, tag=True, kw_only=True):
    """shadow <- d shadow + (1 - d) weight, d = `decay`, with `warm` min(decay, (1 + n) / (10 + n)) at the n-th step (TensorFlow's
    ExponentialMovingAverage with num_updates). Batch norm's running statistics are averaged alike, as in the release of Inception."""

    decay: float = 0.9999
    warm: bool = True

    def build(self, module: nn.Module) -> AveragedModel:
        def average(shadow: list[Tensor], weights: list[Tensor], taken: Tensor) -> None:
            n = taken.item()
            decay = min(self.decay, (1 + n) / (10 + n)) if self.warm else self.decay
            for mine, theirs in zip(shadow, weights, strict=True):
                if mine.is_floating_point():
                    mine.lerp_(theirs, 1 - decay)
                else:
                    mine.copy_(theirs)

        model = AveragedModel(module, multi_avg_fn=average, use_buffers=True)  # type: ignore[arg-type]
        model.n_averaged.fill_(1)  # the shadow begins as the weights at the start: the first step is averaged, too
        return model


Averaging = ExponentialAverage
