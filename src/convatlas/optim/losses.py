"""Losses as records. Called with logits (n, classes) and targets (n,), they return the loss of each sample
(n,), in float32. With weights (classes,) each loss is weighted; their weighted mean is the sum, divided by
the sum of the `sample_weights`."""

import torch
import torch.nn.functional as F
from torch import Tensor

from convatlas.storage.records import Record


class CrossEntropy(Record, frozen=True, tag=True, kw_only=True):
    """-sum_k w(k) q(k) log softmax(logits)_k, where q is one-hot smoothed towards uniform by
    `label_smoothing`, and w the classes' weights, as in torch."""

    label_smoothing: float = 0.0

    def __call__(self, logits: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
        return F.cross_entropy(
            logits.float(),
            targets,
            weight=None if weights is None else weights.float(),
            reduction="none",
            label_smoothing=self.label_smoothing,
        )

    def sample_weights(self, targets: Tensor, weights: Tensor) -> Tensor:
        """(n,): the weight of each sample in a mean, of the classes' `weights` (classes,)."""
        return weights[targets]


class MAPCriterion(Record, frozen=True, tag=True, kw_only=True):
    """LeCun 1998, eq. 9: y_D + log(exp(-j) + sum_i exp(-y_i)), where the penalties y are minus the logits and
    D is the correct class.

    The second term pushes the other classes' penalties up, until they exceed j.
    """

    j: float

    def __call__(self, logits: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
        logits = logits.float()
        rubbish_logit = logits.new_full((len(logits), 1), -self.j)  # of the paper's "rubbish class"
        target_logit = logits.gather(1, targets[:, None]).squeeze(1)
        losses = torch.cat([logits, rubbish_logit], dim=1).logsumexp(dim=1) - target_logit
        return losses if weights is None else losses * weights[targets].float()

    def sample_weights(self, targets: Tensor, weights: Tensor) -> Tensor:
        return weights[targets]


class PixelCrossEntropy(Record, frozen=True, tag=True, kw_only=True):
    """Cross-entropy for segmentation: logits (n, classes, h, w), targets (n, h, w), class indices, or
    (n, 2, h, w), class indices and the weight of each pixel, that of its class included.

    The loss of an image is the weighted mean over its pixels, without those of class `ignore` (Long 2015,
    sec. 3.4; Ronneberger 2015, sec. 3, eq. 1). With a `border_weight` (w0) the targets have weights by eq. 2:
    pixels between two instances weigh more, the nearer these are, on the scale of `border_sigma` pixels.
    """

    ignore: int = 255
    border_weight: float = 0.0
    border_sigma: float = 5.0

    def __call__(self, logits: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
        classes = (targets if targets.dim() == 3 else targets[:, 0]).long()
        losses = F.cross_entropy(logits.float(), classes, reduction="none", ignore_index=self.ignore)
        pixel_weights = (classes != self.ignore).float()
        if targets.dim() == 4:
            pixel_weights = pixel_weights * targets[:, 1]
        elif weights is not None:
            pixel_weights = pixel_weights * weights.float()[classes.clamp(max=len(weights) - 1)]
        total = pixel_weights.sum((1, 2))
        return (losses * pixel_weights).sum((1, 2)) / torch.where(total > 0, total, 1.0)

    def sample_weights(self, targets: Tensor, weights: Tensor) -> Tensor:
        """(n,): every image weighs the same, whatever its pixels."""
        return weights.new_ones(len(targets))


Loss = CrossEntropy | PixelCrossEntropy | MAPCriterion
