"""Batches as a function of the step: what a batch holds hangs on (seed, step) alone, never on workers or on what ran before."""

import multiprocessing
import signal
import threading
import warnings
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from convatlas.data import randomness
from convatlas.data.augment import Augmentation, Draw
from convatlas.data.dataset import Files, Split
from convatlas.data.preprocessing import Preprocessing
from convatlas.errors import UserError
from convatlas.runtime.device import usable_cores
from convatlas.runtime.stopping import ignore_stop_signals


class Batch(NamedTuple):
    images: Tensor  # (n, c, h, w), uint8
    targets: Tensor  # (n,), int64


@dataclass(frozen=True)
class Training(torch.utils.data.Dataset[Batch | UserError]):
    """The training batches of a run. An epoch is len(split) // batch steps; the samples left over differ from epoch to epoch."""

    split: Split
    preprocessing: Preprocessing
    augment: Sequence[Augmentation]
    batch: int
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        return max(1, len(self.split) // self.batch)

    def __getitem__(self, step: int) -> Batch | UserError:
        epoch, place = divmod(step, self.steps_per_epoch)
        indices = _order(self.seed, epoch, len(self.split))[place * self.batch : (place + 1) * self.batch]
        try:
            images = self.preprocessing(torch.from_numpy(self.split.images[indices]))
        except UserError as error:  # an exception would leave a worker process as a traceback
            return error
        for stream, augmentation in enumerate(self.augment):
            images = augmentation(images, Draw(self.seed, epoch, indices, stream))
        return Batch(images, torch.from_numpy(self.split.labels[indices]))


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, count: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return randomness.order(seed, epoch, count)


@dataclass(frozen=True)
class Fixed(torch.utils.data.Dataset[Batch | UserError]):
    """A split in its own order, every batch of one shape: the last is filled up with its first sample, to be dropped again."""

    split: Split
    preprocessing: Preprocessing
    batch: int

    @property
    def steps(self) -> int:
        return -(-len(self.split) // self.batch)

    def __getitem__(self, step: int) -> Batch | UserError:
        indices = np.arange(step * self.batch, min((step + 1) * self.batch, len(self.split)))
        indices = np.concatenate([indices, np.full(self.batch - len(indices), indices[0])])
        try:
            return Batch(self.preprocessing(torch.from_numpy(self.split.images[indices])), torch.from_numpy(self.split.labels[indices]))
        except UserError as error:
            return error


def batches(source: Training | Fixed, start: int, end: int, workers: int = 0, pin: bool = False) -> Generator[tuple[int, Batch]]:
    """(step, batch) for the steps from `start` to `end`. A worker that dies is replaced; its batch is the same when made again.

    Raises UserError for a sample that cannot be read, or when a third worker dies in a row.
    """
    if workers == 0:
        for step in range(start, end):
            yield step, _usable(source[step])
        return
    step, deaths = start, 0
    while step < end:
        try:
            with _crew(source, range(step, end), workers, pin) as stream:
                for batch in stream:
                    yield step, _usable(batch)
                    step, deaths = step + 1, 0
        except (RuntimeError, ConnectionError, EOFError) as error:  # the last two: it, or what starts it, died during a message
            if isinstance(error, RuntimeError) and "DataLoader worker" not in str(error):
                raise
            deaths += 1
            if deaths == 3:
                raise UserError(f"loader workers died at step {step} three times: free some memory or use --workers 0 ({error})") from None


@contextmanager
def _crew(source: Training | Fixed, steps: range, workers: int, pin: bool) -> Iterator[Iterator[Batch | UserError]]:
    """Workers that make the batches of these steps. They ignore the signals that ask a job to stop; on leaving they are ended for sure."""
    before = multiprocessing.active_children()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch advises against more workers than cores: the user has asked for them
        loader = torch.utils.data.DataLoader(
            source, batch_size=None, sampler=steps, num_workers=workers, pin_memory=pin, worker_init_fn=ignore_stop_signals
        )
        stream = iter(loader)
    if threading.current_thread() is threading.main_thread():
        # torch raises from a handler when a worker dies, wherever the training then is; the next request for a batch notices it too
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        yield stream
    finally:
        for worker in multiprocessing.active_children():
            if worker not in before:
                worker.kill()
                worker.join()


def workers_for(split: Split) -> int:
    """How many processes it takes: none for a set in memory, one a core for files."""
    return usable_cores() if isinstance(split.images, Files) else 0


def _usable(batch: Batch | UserError) -> Batch:
    if isinstance(batch, UserError):
        raise batch
    return Batch(*batch)
