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
from convatlas.runtime.distributed.ranks import SINGLE_PROCESS, Ranks
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
            self.forward_backward,
            self.data,
            batch,
            step,
            self.recipe.micro_batch,
            on_microbatch,
            self.objective.sample_weights(batch.targets),
            self.runtime.ranks,
        )

    def update(self) -> None:
        """Clip, step, constrain the weights, and update their average."""
        self.runtime.optimizer_step(self.optimizer, self.recipe.clip)
        if self.recipe.constraint is not None:
            self.recipe.constraint(self.objective.model)
        self.objective.update_ema()


def micro_batch_sizes(images: int, micro_batch: int | None) -> tuple[int, ...]:
    """The sizes of the micro-batches of `images` images: as few as fit with at most `micro_batch` each (None:
    one), and as even as possible. 33 images in micro-batches of 32 are 17 and 16."""
    parts = -(-images // (micro_batch or images))
    size, larger = divmod(images, parts)
    return (size + 1,) * larger + (size,) * (parts - larger)


def accumulate_gradients(
    forward_backward: ForwardBackward,
    data: TrainBatches,
    batch: Batch,
    step: int,
    micro_batch: int | None,
    on_microbatch: OnMicrobatch,
    sample_weights: Tensor | None = None,
    ranks: Ranks = SINGLE_PROCESS,
) -> StepOutput:
    """The batch through the network in micro-batches; `data` augments the images.

    The mean loss of the batch is weighted by the `sample_weights` (n,), if any: a micro-batch contributes its
    share of the weights in the batches of all `ranks`.
    """
    size = len(batch.targets)
    losses: list[Tensor] = []
    logits: list[Tensor] = []
    done = 0
    sizes = list(micro_batch_sizes(size, micro_batch))
    shares = [images / size for images in sizes]
    if sample_weights is not None:
        total = ranks.all_reduce_sum(sample_weights.sum()) / ranks.world_size
        shares = [float(part.sum() / total) for part in torch.split(sample_weights, sizes)]
    micro_batches = (torch.split(t, sizes) for t in (batch.images, batch.targets, batch.indices))
    for share, images, targets, indices in zip(shares, *micro_batches, strict=True):
        done += len(targets)
        images = data.augmented(images, indices, step)
        loss, outputs = forward_backward(images, targets, share, last=done == size)
        losses.append(loss * share)
        logits.append(outputs)
        on_microbatch(loss, done / size)
    return StepOutput(torch.stack(losses).sum(), torch.cat(logits))
