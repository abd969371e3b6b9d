"""Batches as a function of the step: what a batch holds hangs on (seed, step) alone, never on workers or on what ran before."""

import atexit
import multiprocessing
import signal
import threading
import time
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from convatlas.data import randomness
from convatlas.data.augment import Augmentation, Draw
from convatlas.data.crops import Crop
from convatlas.data.cutting import cut
from convatlas.data.dataset import Split, Stack
from convatlas.data.images import Picture
from convatlas.data.preprocessing import Preprocessing, Unread, read
from convatlas.data.viewed import Looks
from convatlas.errors import UserError, printable
from convatlas.runtime.device import usable_cores
from convatlas.runtime.ranks import ALONE, Ranks
from convatlas.runtime.stopping import ignore_stop_signals

PAUSE = 0.2  # seconds


class Batch(NamedTuple):
    images: Tensor  # (n, c, h, w), uint8
    targets: Tensor  # (n,), int64
    indices: Tensor  # (n,), int64: which samples these are
    unread: list[Unread]  # samples that belong here but cannot be read


B = TypeVar("B", bound=Batch | Looks)


@dataclass(frozen=True)
class Training(torch.utils.data.Dataset[Batch | UserError]):
    """The training batches of a run. An epoch is len(split) // batch steps; the samples left over differ from epoch to epoch.

    `crop` draws the part of each picture that is seen (None: what evaluation sees); `augment` follows, on whole batches, wherever the
    step runs. A sample that cannot be read is replaced by the next one in the epoch's order. Of `ranks` processes each gets an equal
    share of every batch.
    """

    split: Split
    preprocessing: Preprocessing
    augment: Sequence[Augmentation]
    batch: int
    seed: int
    crop: Crop | None = None
    rank: int = 0
    ranks: int = 1

    @property
    def steps_per_epoch(self) -> int:
        return max(1, len(self.split) // self.batch)

    def __getitem__(self, step: int) -> Batch | UserError:
        epoch, place = divmod(step, self.steps_per_epoch)
        share = self.batch // self.ranks
        places = place * self.batch + self.rank * share + np.arange(share)
        order = _order(self.seed, epoch, len(self.split))
        try:
            return self._batch(order, epoch, places)
        except UserError as error:  # an exception would leave a worker process as a traceback
            return error

    def _batch(self, order: NDArray[np.int64], epoch: int, places: NDArray[np.int64]) -> Batch:
        indices = order[places]
        images, unread = self._read(epoch, indices)
        lacking, broken, ahead = unread, unread, 0
        while lacking:
            ahead += 1
            if ahead > most_unread(len(order)):
                raise UserError(too_many(len(order), broken[0]))
            again = np.isin(indices, [u.index for u in lacking])
            indices = np.where(again, order[(places + ahead) % len(order)], indices)
            images[torch.from_numpy(again)], lacking = self._read(epoch, indices[again])
            broken = broken + lacking
        targets = torch.from_numpy(self.split.labels[indices])
        return Batch(images, targets, torch.from_numpy(indices), sorted(set(broken)))

    def _read(self, epoch: int, indices: NDArray[np.int64]) -> tuple[Tensor, list[Unread]]:
        if self.crop is None:
            return self.preprocessing.read(self.split.images, indices)
        crop = self.crop
        u = Draw(self.seed, epoch, indices, len(self.augment)).uniforms(crop.uniforms + 1)

        def see(picture: Picture, place: int) -> Tensor:
            box = crop.box(picture, self.preprocessing.size, u[place, :-1])
            view = cut(picture, box, self.preprocessing.size, self.preprocessing.channels)
            return view[None].flip(3)[0] if crop.mirror and u[place, -1] < 0.5 else view

        return read(self.split.images, indices, see, self.preprocessing.shape)

    def augmented(self, images: Tensor, indices: Tensor, step: int) -> Tensor:
        """The images of a batch, on any device, as the network is to see them in this step."""
        for stream, augmentation in enumerate(self.augment):
            images = augmentation(images, Draw(self.seed, step // self.steps_per_epoch, indices.cpu().numpy(), stream))
        return images


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    return randomness.order(seed, epoch, count)


def most_unread(samples: int) -> int:
    """So many broken samples, that were on no quarantine list, a run puts up with."""
    return max(samples // 100, 50)


def too_many(samples: int, first: Unread) -> str:
    return (
        f"more than {most_unread(samples):,} of {samples:,} images cannot be read, {printable(first.file)} first ({first.reason}): "
        f"look at them with convatlas data check, which puts them on the quarantine list, and train again"
    )


@dataclass(frozen=True)
class Fixed(torch.utils.data.Dataset[Batch | UserError]):
    """A split in its own order, every batch of one shape: the last is filled up with its first sample, to be dropped again.

    Of `ranks` processes each gets every `ranks`th batch, so that every sample is seen once by one of them.
    """

    split: Split
    preprocessing: Preprocessing
    batch: int
    rank: int = 0
    ranks: int = 1

    @property
    def steps(self) -> int:
        """Of this rank."""
        return len(range(self.rank, -(-len(self.split) // self.batch), self.ranks))

    def __getitem__(self, step: int) -> Batch | UserError:
        start = (self.rank + step * self.ranks) * self.batch
        inside = np.arange(start, min(start + self.batch, len(self.split)))
        indices = np.concatenate([inside, np.full(self.batch - len(inside), inside[0])])
        try:
            images, unread = self.preprocessing.read(self.split.images, indices)
        except UserError as error:
            return error
        return Batch(images, torch.from_numpy(self.split.labels[indices]), torch.from_numpy(inside), sorted(set(unread)))


def batches(
    source: torch.utils.data.Dataset[B | UserError], start: int, end: int, workers: int = 0, pin: bool = False
) -> Generator[tuple[int, B]]:
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
            time.sleep(PAUSE)  # a signal to the whole group may be ending what starts workers: it is started anew once it has gone
            if deaths == 3:
                raise UserError(f"loader workers died at step {step} three times: free some memory or use --workers 0 ({error})") from None


@contextmanager
def _crew(source: torch.utils.data.Dataset[B | UserError], steps: range, workers: int, pin: bool) -> Iterator[Iterator[B | UserError]]:
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
            collate_fn=_packed,  # there is one batch, not a list of samples
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


def workers_for(split: Split, ranks: Ranks = ALONE) -> int:
    """How many processes it takes: none for a set in memory, one a core for what must be decoded, shared among a machine's ranks."""
    return 0 if isinstance(split.images, Stack) else max(1, usable_cores() // ranks.beside)


def _packed(batch: B | UserError) -> B | UserError:
    """As a worker hands it over: each tensor would be a shared file of its own, which costs more than the numbers in it."""
    if isinstance(batch, UserError):
        return batch
    numbers: Any = {"targets": batch.targets.numpy(), "indices": batch.indices.numpy()}
    return cast(B, batch._replace(**numbers))


def _usable(batch: B | UserError) -> B:
    if isinstance(batch, UserError):
        raise batch
    return cast(B, batch._replace(targets=torch.as_tensor(batch.targets), indices=torch.as_tensor(batch.indices)))
