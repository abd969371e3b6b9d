"""The gradients of one step: a batch goes through the network in parts of the recipe's micro-batch, whose gradients add up."""

from collections.abc import Callable

import torch
from torch import Tensor

from convatlas.data.loading.batch import Batch
from convatlas.data.loading.train_batches import TrainBatches
from convatlas.runtime.cuda_graph import ForwardBackward
from convatlas.training.objective import StepOutput


def accumulate_gradients(
    function: ForwardBackward,
    data: TrainBatches,
    batch: Batch,
    step: int,
    micro_batch: int | None,
    on_microbatch: Callable[[Tensor, float], None],
) -> StepOutput:
    """Add the gradients of the batch's mean loss to the parameters'; returns that loss and the logits of all images, in order.

    With several ranks, `batch` is this one's share, and so are loss and logits; the gradients, exchanged with the last part, are the mean
    of all shares'. `passed` is told after each part its loss, and the share of the batch that is through.
    """
    whole = len(batch.targets)
    losses, logits, through = [], [], 0
    parts = (torch.split(tensor, micro_batch or whole) for tensor in (batch.images, batch.targets, batch.indices))
    for images, targets, indices in zip(*parts, strict=True):
        through, share = through + len(targets), len(targets) / whole
        loss, answers = function(data.augmented(images, indices, step), targets, share, last=through == whole)
        losses.append(loss * share)
        logits.append(answers)
        on_microbatch(loss, through / whole)
    return StepOutput(torch.stack(losses).sum(), torch.cat(logits))
