"""Evaluation batches: a split in its own order, in batches of one fixed shape."""

from dataclasses import dataclass

import numpy as np
import torch

from convatlas.data.dataset import Split
from convatlas.data.loading.batch import Batch
from convatlas.data.transforms.preprocessing import Preprocessing
from convatlas.errors import UserError


@dataclass(frozen=True)
class EvalBatches(torch.utils.data.Dataset[Batch | UserError]):
    """A split in its own order, in batches of one shape.

    The images of the last batch are padded to `batch_size` with its first sample; its `indices` are not, so
    the caller can drop the padding. Each of `world_size` processes gets every `world_size`th batch, so that
    every sample is evaluated once.
    """

    split: Split
    preprocessing: Preprocessing
    batch_size: int
    rank: int = 0
    world_size: int = 1

    @property
    def num_batches(self) -> int:
        """The number of batches of all ranks."""
        return -(-len(self.split) // self.batch_size)

    @property
    def images_per_step(self) -> int:
        return self.batch_size

    @property
    def steps(self) -> int:
        """The number of batches of this rank."""
        return len(range(self.rank, self.num_batches, self.world_size))

    def __getitem__(self, step: int) -> Batch | UserError:
        start = (self.rank + step * self.world_size) * self.batch_size
        indices = np.arange(start, min(start + self.batch_size, len(self.split)))
        padded_indices = np.concatenate([indices, np.full(self.batch_size - len(indices), indices[0])])
        try:
            images, unreadable = self.preprocessing.load_batch(self.split.images, padded_indices)
        except UserError as error:
            return error
        targets = torch.from_numpy(self.split.labels[padded_indices])
        return Batch(images, targets, torch.from_numpy(indices), sorted(set(unreadable)))
