"""The training and evaluation batches of a run."""

from convatlas.data import Split
from convatlas.data.loading.train_batches import TrainBatches
from convatlas.data.task import EvalSource
from convatlas.runtime.distributed.ranks import SINGLE_PROCESS, Ranks
from convatlas.training.run import Run
from convatlas.training.tasks import task_of


def train_batches(
    run: Run,
    split: Split,
    ranks: Ranks = SINGLE_PROCESS,
    batch: int | None = None,
    augmented: bool = True,
) -> TrainBatches:
    """This rank's share of every batch.

    `batch` replaces the recipe's; without `augmented`, crops alone are drawn.
    """
    recipe = run.recipe
    return TrainBatches(
        samples=task_of(run).samples(split, run.content.preprocessing, recipe, run.content.classes),
        augment=recipe.augment if augmented else (),
        batch_size=batch or recipe.batch,
        seed=run.seed,
        rank=ranks.rank,
        world_size=ranks.world_size,
        sampling=recipe.sampling,
    )


def eval_batches(run: Run, split: Split, ranks: Ranks = SINGLE_PROCESS) -> EvalSource:
    """This rank's share of the evaluation batches of a split."""
    return task_of(run).eval_source(
        split, run.content.preprocessing, run.evaluation_batch, ranks.rank, ranks.world_size
    )
