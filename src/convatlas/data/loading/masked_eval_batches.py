"""Evaluation of segmentation: a split in its own order, whole images, each by itself."""

from dataclasses import dataclass

import torch

from convatlas.data.dataset import Split
from convatlas.data.images.unreadable import UnreadableImage
from convatlas.data.loading.batch import Batch
from convatlas.data.transforms.preprocessing import Preprocessing, UnreadableSample
from convatlas.errors import UserError


@dataclass(frozen=True)
class MaskedEvalBatches(torch.utils.data.Dataset[Batch | UserError]):
    """An image a batch, (1, c, h, w), at the preprocessing's scale, with its mask (1, height, width) at the
    image's own size. Each of `world_size` processes gets every `world_size`th image."""

    split: Split
    preprocessing: Preprocessing
    rank: int = 0
    world_size: int = 1

    @property
    def num_batches(self) -> int:
        """The number of images of all ranks."""
        return len(self.split)

    @property
    def images_per_step(self) -> int:
        return 1

    @property
    def steps(self) -> int:
        """The number of images of this rank."""
        return len(range(self.rank, len(self.split), self.world_size))

    def __getitem__(self, step: int) -> Batch | UserError:
        index = self.rank + step * self.world_size
        assert self.split.masks is not None
        indices = torch.tensor([index])
        try:
            image = self.preprocessing.read_scaled(self.split.images.image(index))
            target = torch.from_numpy(self.split.masks.mask(index).classes)
        except UnreadableImage as error:
            sample = UnreadableSample(index, error.name, error.reason)
            image = torch.zeros(self.preprocessing.channels, 1, 1, dtype=torch.uint8)
            return Batch(image[None], torch.zeros(1, 1, 1, dtype=torch.uint8), indices, [sample])
        except UserError as error:
            return error
        return Batch(image[None], target[None], indices, [])
