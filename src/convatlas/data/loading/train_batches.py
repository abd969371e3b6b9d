"""Training batches as a function of (seed, step) alone, never of workers or earlier steps."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from convatlas.data.loading.batch import Batch, Samples, SampleSource
from convatlas.data.loading.epoch_order import EpochOrder, Sampling
from convatlas.data.transforms.augment import Augmentation
from convatlas.data.transforms.preprocessing import UnreadableSample
from convatlas.data.transforms.sample_rng import SampleRng
from convatlas.errors import UserError, printable


@dataclass(frozen=True)
class TrainBatches(torch.utils.data.Dataset[Batch | UserError]):
    """The training batches of a run.

    An epoch has len(split) // batch_size steps; the samples that are left over differ from epoch to epoch.
    `augment` is applied to full batches of `samples`, on the device of the training step. A sample that
    cannot be read is replaced by the next one in the epoch's order. Each of `world_size` processes gets an
    equal share of every batch. Balanced `sampling` repeats samples within an epoch: then their crops and
    augmentations follow from the step.
    """

    samples: SampleSource
    augment: Sequence[Augmentation]
    batch_size: int
    seed: int
    rank: int = 0
    world_size: int = 1
    sampling: Sampling = "uniform"

    @cached_property
    def order(self) -> EpochOrder:
        return EpochOrder(self.seed, self.samples.split.labels, self.sampling)

    @property
    def steps_per_epoch(self) -> int:
        return max(1, len(self.samples.split) // self.batch_size)

    def __getitem__(self, step: int) -> Batch | UserError:
        epoch, step_in_epoch = divmod(step, self.steps_per_epoch)
        rank_batch_size = self.batch_size // self.world_size
        start = step_in_epoch * self.batch_size + self.rank * rank_batch_size
        try:
            positions = start + np.arange(rank_batch_size)
            return self._load(self.order(epoch), self._counter(step), positions)
        except UserError as error:  # an exception would leave a worker process as a traceback
            return error

    def _counter(self, step: int) -> int:
        """The counter that a sample's random crop and augmentation follow from: the epoch, or the step."""
        return step // self.steps_per_epoch if self.sampling == "uniform" else step

    def _load(self, order: NDArray[np.int64], counter: int, positions: NDArray[np.int64]) -> Batch:
        """The batch of the samples at `positions` of the epoch's order."""
        indices = order[positions]
        images, targets, missing = self._load_samples(counter, indices)
        unreadable = missing
        attempts = 0
        while missing:
            attempts += 1
            if attempts > max_unreadable(len(order)):
                raise UserError(too_many_unreadable(len(order), unreadable[0]))
            is_missing = np.isin(indices, [sample.index for sample in missing])
            indices = np.where(is_missing, order[(positions + attempts) % len(order)], indices)
            rows = torch.from_numpy(is_missing)
            images[rows], targets[rows], missing = self._load_samples(counter, indices[is_missing])
            unreadable = unreadable + missing
        return Batch(images, targets, torch.from_numpy(indices), sorted(set(unreadable)))

    def _load_samples(self, counter: int, indices: NDArray[np.int64]) -> Samples:
        return self.samples.load(SampleRng(self.seed, counter, indices, len(self.augment)))

    def augmented(self, images: Tensor, indices: Tensor, step: int) -> Tensor:
        """Augment the images of a batch, on any device, as this step's input of the network."""
        counter = self._counter(step)
        for stream, augmentation in enumerate(self.augment):
            images = augmentation(images, SampleRng(self.seed, counter, indices.cpu().numpy(), stream))
        return images


def max_unreadable(num_samples: int) -> int:
    """The number of unreadable samples, not yet on a quarantine list, that a run tolerates."""
    return max(num_samples // 100, 50)


def too_many_unreadable(num_samples: int, first: UnreadableSample) -> str:
    """The error message of a run that stops after `max_unreadable` samples."""
    return (
        f"more than {max_unreadable(num_samples):,} of {num_samples:,} images cannot be read, "
        f"{printable(first.file)} first ({first.reason}): "
        f"look at them with convatlas data check, which puts them on the quarantine list, and train again"
    )
