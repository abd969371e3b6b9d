"""Predictions of many image files by several ranks, in the files' order and with the bits of a single
process."""

from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice

from convatlas.classifier.classifier import BATCH_SIZE, Classes, Classifier
from convatlas.errors import UserError
from convatlas.runtime.distributed.ranks import Ranks


def predict_on_ranks(
    classifier: Classifier,
    files: Iterable[str],
    top: int,
    engine: str,
    ranks: Ranks,
    say: Callable[[str], None] = lambda line: None,
) -> Iterator[tuple[str, Classes | UserError]]:
    """Yield (file, its classes, or why it cannot be read) on every rank; the ranks take turns with batches.

    All ranks must be given the same files. `say` is called on rank 0, as by `Classifier.predict_iter`.
    """
    if ranks.world_size == 1:
        yield from classifier.predict_iter(files, top, engine, say=say)
        return
    batches = _batched(files)
    first = next(batches, [])
    # every rank tries its engine on the first batch, as a single process does; rank 0 has chosen it
    if ranks.rank == 0:
        predictions = list(classifier.predict_iter(first, top, engine, say=say))
    built = ranks.run_on_main(
        lambda: classifier.engines[engine].name if engine in classifier.engines else engine
    )
    if ranks.rank != 0:
        predictions = list(classifier.predict_iter(first, top, built))
    yield from predictions
    own_files = chain.from_iterable(islice(batches, ranks.rank, None, ranks.world_size))
    own = classifier.predict_iter(own_files, top, engine if ranks.rank == 0 else built)
    # all batches but the last have BATCH_SIZE files, so every round is a batch of each rank
    while any(shares := ranks.all_gather(list(islice(own, BATCH_SIZE)))):
        yield from chain(*shares)


def _batched(files: Iterable[str]) -> Iterator[list[str]]:
    stream = iter(files)
    while batch := list(islice(stream, BATCH_SIZE)):
        yield batch
