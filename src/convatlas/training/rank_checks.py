"""Whether ranks can do a run together: a batch that they divide, and the same run, code and data in each."""

from collections.abc import Mapping
from typing import Any

from convatlas.errors import UsageError
from convatlas.runtime.distributed.ranks import Ranks
from convatlas.storage.records import diff
from convatlas.storage.source_hash import source_sha256
from convatlas.training.run import Run


def check_batch_divides(run: Run, ranks: Ranks) -> None:
    """Raises UsageError when the ranks cannot take equal shares of a batch."""
    batch, left = run.recipe.batch, run.recipe.batch % ranks.world_size
    if left:
        near = [n for n in (batch - left, batch - left + ranks.world_size) if n]
        raise UsageError(
            f"a batch of {batch} has no equal shares for {ranks.world_size} ranks: start another number of them, "
            f"or take a batch of {' or '.join(map(str, near))} (--batch {near[-1]})"
        )


def check_ranks_agree(run: Run, environment: Mapping[str, Any], ranks: Ranks, force: bool = False) -> None:
    """Raises UsageError when a rank has another run, other code or, unless by `force`, another environment than rank 0."""
    for rank, (theirs, code, machine) in enumerate(found := ranks.all_gather((run, source_sha256(), environment))):
        changes = diff(found[0][0], theirs)
        if not changes and code != found[0][1]:
            changes = ["the source of convatlas"]
        if not changes and not force:
            changes = diff(dict(found[0][2]), dict(machine))
        if changes:
            raise UsageError(f"rank {rank} differs from rank 0 ({changes[0]}): start all ranks with the same command, code and data")
