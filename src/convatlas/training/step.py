"""One training step, in three parts: prepare, backward (in micro-batches whose gradients add up), update."""

from collections.abc import Callable

import torch
from torch import Tensor

from convatlas.data.loading.batch import Batch
from convatlas.data.loading.train_batches import TrainBatches
from convatlas.data.transforms.counter_rng import step_seed
from convatlas.optim.optimizers import set_lr
from convatlas.recipes import Recipe
from convatlas.runtime.cuda_graph import ForwardBackward
from convatlas.runtime.runtime import Runtime
from convatlas.training.objective import Objective, StepOutput

OnMicrobatch = Callable[
    [Tensor, float], None
]  # called with a micro-batch's loss, and the share of the batch done


class TrainStep:
    """A step of `train`, as the plan and the benchmark measure it too.

    Everything random in it follows from (seed, step).
    """

    def __init__(
        self,
        objective: Objective,
        optimizer: torch.optim.Optimizer,
        runtime: Runtime,
        recipe: Recipe,
        data: TrainBatches,
        forward_backward: ForwardBackward,
    ):
        self.objective = objective
        self.optimizer = optimizer
        self.runtime = runtime
        self.recipe = recipe
        self.data = data
        self.forward_backward = forward_backward

    def prepare(self, step: int, lr: float) -> None:
        self.objective.train()
        self.objective.snapshot_statistics()
        self.runtime.seed_step(step_seed(self.data.seed, step, self.runtime.ranks.rank))
        set_lr(self.optimizer, lr)

    def backward(
        self, batch: Batch, step: int, on_microbatch: OnMicrobatch = lambda loss, share: None
    ) -> StepOutput:
        """Add the gradients of the batch's mean loss; returns that loss and the logits of all images, in
        order.

        With several ranks `batch` is this rank's share, and so are loss and logits; the gradients, exchanged
        with the last micro-batch, are the mean over ranks.
        """
        return accumulate_gradients(
            self.forward_backward, self.data, batch, step, self.recipe.micro_batch, on_microbatch
        )

    def update(self) -> None:
        """Clip, step, constrain the weights, and update their average."""
        self.runtime.optimizer_step(self.optimizer, self.recipe.clip)
        if self.recipe.constraint is not None:
            self.recipe.constraint(self.objective.model)
        self.objective.update_ema()


def accumulate_gradients(
    forward_backward: ForwardBackward,
    data: TrainBatches,
    batch: Batch,
    step: int,
    micro_batch: int | None,
    on_microbatch: OnMicrobatch,
) -> StepOutput:
    """The batch through the network in micro-batches; `data` augments the images."""
    size = len(batch.targets)
    losses: list[Tensor] = []
    logits: list[Tensor] = []
    done = 0
    micro_batches = (
        torch.split(t, micro_batch or size) for t in (batch.images, batch.targets, batch.indices)
    )
    for images, targets, indices in zip(*micro_batches, strict=True):
        done += len(targets)
        share = len(targets) / size
        images = data.augmented(images, indices, step)
        loss, outputs = forward_backward(images, targets, share, last=done == size)
        losses.append(loss * share)
        logits.append(outputs)
        on_microbatch(loss, done / size)
    return StepOutput(torch.stack(losses).sum(), torch.cat(logits))
