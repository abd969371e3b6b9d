"""The gradients of one step: a batch goes through the network in parts of the recipe's micro-batch, whose gradients add up."""

from collections.abc import Callable

import torch
from torch import Tensor

from convatlas.data.loader import Batch, Training
from convatlas.runtime.device import Runtime
from convatlas.training.objective import Outcome


def gradients(
    function: Callable[[Tensor, Tensor], Outcome],
    data: Training,
    batch: Batch,
    step: int,
    micro_batch: int | None,
    runtime: Runtime,
    passed: Callable[[Tensor, float], None],
) -> Outcome:
    """Add the gradients of the batch's mean loss to the parameters'; returns that loss and the logits of all images, in order.

    `passed` is told after each part its loss, and the share of the batch that is through.
    """
    whole = len(batch.targets)
    losses, logits, through = [], [], 0
    parts = (torch.split(tensor, micro_batch or whole) for tensor in (batch.images, batch.targets, batch.indices))
    for images, targets, indices in zip(*parts, strict=True):
        with runtime.autocast():
            loss, answers = function(data.augmented(images, indices, step), targets)
        loss = loss * (len(targets) / whole)
        runtime.backward(loss)
        losses.append(loss.detach())
        logits.append(answers.detach())
        through += len(targets)
        passed(losses[-1] * (whole / len(targets)), through / whole)
    return Outcome(torch.stack(losses).sum(), torch.cat(logits))
