"""Numbered work in worker processes, which may die and end with their parent."""

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool

from convatlas.errors import UserError
from convatlas.runtime.signals import end_with_parent, ignore_stop_signals

MAX_DEATHS = 3  # of workers, without a finished item in between


def map_in_processes(
    work: Callable[[int], int], numbers: Sequence[int], num_processes: int, message: str
) -> Iterator[int]:
    """Do `work`, which returns its number, for each of `numbers`, and yield the number of each that is done.

    With one process it is done here. A worker that dies is replaced, and its work done again. Raises
    UserError with `message` ({deaths}: how many) when workers die time and again.
    """
    if num_processes <= 1:
        yield from map(work, numbers)
        return
    missing = set(numbers)
    deaths = 0
    while missing:
        executor = ProcessPoolExecutor(
            num_processes, multiprocessing.get_context("fork"), initializer=_start_worker
        )
        try:
            for future in as_completed([executor.submit(work, number) for number in sorted(missing)]):
                number = future.result()
                missing.remove(number)
                deaths = 0
                yield number
        except BrokenProcessPool:
            deaths += 1
            if deaths == MAX_DEATHS:
                raise UserError(message.format(deaths=deaths)) from None
        finally:
            for process in list((executor._processes or {}).values()):
                process.kill()  # after a stop it would do its work to the end first
            executor.shutdown(cancel_futures=True)


def _start_worker() -> None:
    """In a worker: the parent handles signals, and no worker outlives it."""
    ignore_stop_signals()
    end_with_parent()
