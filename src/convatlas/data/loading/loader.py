"""Load batches in supervised worker processes: a worker that dies is replaced."""

import atexit
import multiprocessing
import signal
import threading
import time
import warnings
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import torch

from convatlas.data.dataset import ArrayImages, Split
from convatlas.data.loading.batch import Batch
from convatlas.data.loading.multi_crop_batches import MultiCropBatch
from convatlas.errors import UserError
from convatlas.runtime.distributed.ranks import SINGLE_PROCESS, Ranks
from convatlas.runtime.num_threads import usable_cores
from convatlas.runtime.signals import end_with_parent, ignore_stop_signals, postpone_signals

MAX_DEATHS = 3  # of workers in a row, without a batch in between
RESTART_SECONDS = 0.2

B = TypeVar("B", bound=Batch | MultiCropBatch)


def iterate_batches(
    dataset: torch.utils.data.Dataset[B | UserError],
    start: int,
    end: int,
    num_workers: int = 0,
    pin_memory: bool = False,
) -> Generator[tuple[int, B]]:
    """Yield (step, batch) for the steps from `start` to `end`, exclusive.

    `dataset[step]` is the batch of a step, or the error that loading it raised. A worker that dies is
    replaced; its batch is loaded again, with the same content. Raises UserError for a batch that cannot be
    loaded, or when a third worker in a row dies.
    """
    if num_workers == 0:
        for step in range(start, end):
            yield step, _to_tensors(dataset[step])
        return
    step = start
    deaths = 0
    while step < end:
        try:
            with _worker_pool(dataset, range(step, end), num_workers, pin_memory) as batches:
                for batch in batches:
                    yield step, _to_tensors(batch)
                    step += 1
                    deaths = 0
        # the last two: a worker, or the process that starts workers, died while it sent a message
        except (RuntimeError, ConnectionError, EOFError) as error:
            if isinstance(error, RuntimeError) and "DataLoader worker" not in str(error):
                raise
            deaths += 1
            # A signal to the process group may also be ending the process that starts workers. Wait until
            # that process is gone: then a new one is started.
            time.sleep(RESTART_SECONDS)
            if deaths == MAX_DEATHS:
                raise UserError(
                    f"loader workers died at step {step} {MAX_DEATHS} times: "
                    f"free some memory or use --workers 0 ({error})"
                ) from None


@contextmanager
def _worker_pool(
    dataset: torch.utils.data.Dataset[B | UserError], steps: range, num_workers: int, pin_memory: bool
) -> Iterator[Iterator[B | UserError]]:
    """Start workers that load the batches of `steps`, in order.

    The workers ignore the signals that ask a job to stop; they are killed on exit.
    """
    other_children = multiprocessing.active_children()
    with warnings.catch_warnings(), postpone_signals():  # torch cannot end a loader that is half made
        warnings.simplefilter("ignore")  # torch warns of more workers than cores; the user chose the number
        loader = torch.utils.data.DataLoader(
            dataset,
            batch_size=None,
            sampler=steps,
            num_workers=num_workers,
            pin_memory=pin_memory,
            worker_init_fn=_start_worker,
            collate_fn=_to_numpy,  # each item is a complete batch, not a list of samples
        )
        batches = iter(loader)
    if threading.current_thread() is threading.main_thread():
        # torch's signal handler raises when a worker dies, at any point of the training; the next request for
        # a batch reports the death as well
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)

    # the default argument binds the function now: at exit, modules are torn down first
    def kill_workers(active_children: Callable[[], list[Any]] = multiprocessing.active_children) -> None:
        for child in active_children():
            if child not in other_children:
                child.kill()
                child.join()

    # without an orderly exit from this context, the interpreter would wait for workers that ignore its signal
    atexit.register(kill_workers)
    try:
        yield batches
    finally:
        kill_workers()
        atexit.unregister(kill_workers)


def _start_worker(worker: int) -> None:
    """A worker outlives no process that has been killed, whatever the method by which it was started."""
    ignore_stop_signals()
    end_with_parent()


def default_num_workers(split: Split, ranks: Ranks = SINGLE_PROCESS) -> int:
    """The worker processes of each rank: 0 for images in memory, else the machine's cores by its ranks."""
    if isinstance(split.images, ArrayImages):
        return 0
    return max(1, usable_cores() // ranks.local_world_size)


def _to_numpy(batch: B | UserError) -> B | UserError:
    """Convert targets and indices for sending: a tensor would be sent as a shared file, which is slower."""
    if isinstance(batch, UserError):
        return batch
    arrays: Any = {"targets": batch.targets.numpy(), "indices": batch.indices.numpy()}
    return cast(B, batch._replace(**arrays))


def _to_tensors(batch: B | UserError) -> B:
    """Convert targets and indices back to tensors. Raises an error that took the place of the batch."""
    if isinstance(batch, UserError):
        raise batch
    targets = torch.as_tensor(batch.targets)
    indices = torch.as_tensor(batch.indices)
    return cast(B, batch._replace(targets=targets, indices=indices))
