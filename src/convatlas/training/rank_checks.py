"""Whether ranks can do a run together: the same run, code and environment, a batch to divide."""

from collections.abc import Mapping
from typing import Any

from convatlas.errors import UsageError
from convatlas.runtime.distributed.ranks import Ranks
from convatlas.storage.records import diff
from convatlas.storage.source_hash import source_sha256
from convatlas.training.run import Run


def check_batch_divides(run: Run, ranks: Ranks) -> None:
    """Raises UsageError when the ranks cannot take equal shares of a batch."""
    batch = run.recipe.batch
    remainder = batch % ranks.world_size
    if not remainder:
        return
    sizes = (batch - remainder, batch - remainder + ranks.world_size)
    nearest = [size for size in sizes if 0 < size <= run.content.counts["train"]]
    if not nearest:
        raise UsageError(
            f"{run.content.counts['train']} training images are too few for {ranks.world_size} ranks: start "
            "fewer of them"
        )
    raise UsageError(
        f"a batch of {batch} has no equal shares for {ranks.world_size} ranks: start another number of them, "
        f"or take a batch of {' or '.join(map(str, nearest))} (--batch {nearest[-1]})"
    )


def check_ranks_agree(run: Run, environment: Mapping[str, Any], ranks: Ranks, force: bool = False) -> None:
    """Raises UsageError for a rank with another run, code or, unless `force`, environment."""
    all_ranks = ranks.all_gather((run, source_sha256(), dict(environment)))
    main_run, main_source, main_environment = all_ranks[0]
    for rank, (other_run, source, other_environment) in enumerate(all_ranks):
        changes = diff(main_run, other_run)
        if not changes and source != main_source:
            changes = ["the source of convatlas"]
        if not changes and not force:
            changes = diff(main_environment, other_environment)
        if changes:
            raise UsageError(
                f"rank {rank} differs from rank 0 ({changes[0]}): start all ranks with the same command, "
                "code and data"
            )
