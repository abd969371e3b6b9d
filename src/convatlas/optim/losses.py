"""Losses as records. Called with logits (n, classes) and targets (n,), they return the loss of each sample
(n,), in float32. With weights (classes,) each loss is weighted; their weighted mean is the sum, divided by
the sum of the targets' weights."""

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


class PixelCrossEntropy(Record, frozen=True, tag=True, kw_only=True):
    """Cross-entropy for segmentation: logits (n, classes, h, w), targets (n, at least h, at least w), cropped
    to their centre.

    The loss of an image is the mean over its pixels, without those of class `ignore` (Long 2015, sec. 3.4;
    Ronneberger 2015, sec. 3). Raises ValueError for weights, which would hold for pixels.
    """

    ignore: int = 255

    def __call__(self, logits: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
        if weights is not None:
            raise ValueError("the loss of pixels has no class weights")
        h, w = logits.shape[2:]
        top = (targets.shape[1] - h) // 2
        left = (targets.shape[2] - w) // 2
        targets = targets[:, top : top + h, left : left + w]
        losses = F.cross_entropy(logits.float(), targets.long(), reduction="none", ignore_index=self.ignore)
        return losses.sum((1, 2)) / (targets != self.ignore).sum((1, 2)).clamp(min=1)


Loss = CrossEntropy | PixelCrossEntropy | MAPCriterion
