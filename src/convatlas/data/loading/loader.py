"""Batches by worker processes that are supervised: a worker that dies is replaced."""

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
from convatlas.runtime.device import usable_cores
from convatlas.runtime.distributed.ranks import SINGLE_PROCESS, Ranks
from convatlas.runtime.signals import ignore_stop_signals

RESTART_SECONDS = 0.2  # seconds


B = TypeVar("B", bound=Batch | MultiCropBatch)


def iterate_batches(
    source: torch.utils.data.Dataset[B | UserError], start: int, end: int, workers: int = 0, pin: bool = False
) -> Generator[tuple[int, B]]:
    """(step, batch) for the steps from `start` to `end`. A worker that dies is replaced; its batch is the same when made again.

    Raises UserError for a sample that cannot be read, or when a third worker dies in a row.
    """
    if workers == 0:
        for step in range(start, end):
            yield step, _as_tensors(source[step])
        return
    step, deaths = start, 0
    while step < end:
        try:
            with _worker_pool(source, range(step, end), workers, pin) as stream:
                for batch in stream:
                    yield step, _as_tensors(batch)
                    step, deaths = step + 1, 0
        except (RuntimeError, ConnectionError, EOFError) as error:  # the last two: it, or what starts it, died during a message
            if isinstance(error, RuntimeError) and "DataLoader worker" not in str(error):
                raise
            deaths += 1
            time.sleep(
                RESTART_SECONDS
            )  # a signal to the whole group may be ending what starts workers: it is started anew once it has gone
            if deaths == 3:
                raise UserError(f"loader workers died at step {step} three times: free some memory or use --workers 0 ({error})") from None


@contextmanager
def _worker_pool(
    source: torch.utils.data.Dataset[B | UserError], steps: range, workers: int, pin: bool
) -> Iterator[Iterator[B | UserError]]:
    """Workers that make the batches of these steps. They ignore the signals that ask a job to stop; on leaving they are ended for sure."""
    before = multiprocessing.active_children()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch advises against more workers than cores: the user has asked for them
        loader = torch.utils.data.DataLoader(
            source,
            batch_size=None,
            sampler=steps,
            num_workers=workers,
            pin_memory=pin,
            worker_init_fn=ignore_stop_signals,
            collate_fn=_as_numpy,  # there is one batch, not a list of samples
        )
        stream = iter(loader)
    if threading.current_thread() is threading.main_thread():
        # torch raises from a handler when a worker dies, wherever the training then is; the next request for a batch notices it too
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)

    def end(children: Callable[[], list[Any]] = multiprocessing.active_children) -> None:  # bound now: at exit modules go first
        for worker in children():
            if worker not in before:
                worker.kill()
                worker.join()

    atexit.register(end)  # where nobody leaves, the interpreter would wait for workers that ignore its signal
    try:
        yield stream
    finally:
        end()
        atexit.unregister(end)


def default_num_workers(split: Split, ranks: Ranks = SINGLE_PROCESS) -> int:
    """How many processes it takes: none for a set in memory, one a core for what must be decoded, shared among a machine's ranks."""
    return 0 if isinstance(split.images, ArrayImages) else max(1, usable_cores() // ranks.local_world_size)


def _as_numpy(batch: B | UserError) -> B | UserError:
    """As a worker hands it over: each tensor would be a shared file of its own, which costs more than the numbers in it."""
    if isinstance(batch, UserError):
        return batch
    numbers: Any = {"targets": batch.targets.numpy(), "indices": batch.indices.numpy()}
    return cast(B, batch._replace(**numbers))


def _as_tensors(batch: B | UserError) -> B:
    if isinstance(batch, UserError):
        raise batch
    return cast(B, batch._replace(targets=torch.as_tensor(batch.targets), indices=torch.as_tensor(batch.indices)))
