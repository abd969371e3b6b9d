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
            images, unread = self.preprocessing.load_batch(self.split.images, indices)
        except UserError as error:
            return error
        return Batch(images, torch.from_numpy(self.split.labels[indices]), torch.from_numpy(inside), sorted(set(unread)))
