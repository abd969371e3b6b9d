"""The training batches of a run."""

from convatlas.data import Split
from convatlas.data.loading.train_batches import TrainBatches
from convatlas.runtime.distributed.ranks import SINGLE_PROCESS, Ranks
from convatlas.training.run import Run


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
        split=split,
        preprocessing=run.content.preprocessing,
        augment=recipe.augment if augmented else (),
        batch_size=batch or recipe.batch,
        seed=run.seed,
        crop=recipe.crop,
        rank=ranks.rank,
        world_size=ranks.world_size,
        sampling=recipe.sampling,
    )
