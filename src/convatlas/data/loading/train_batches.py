"""Training batches as a function of the step: they depend on (seed, step) alone, never on workers or earlier steps."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from convatlas.data.dataset import Split
from convatlas.data.images.decode import ImageLike
from convatlas.data.images.resize import crop_resize
from convatlas.data.loading.batch import Batch
from convatlas.data.transforms import counter_rng
from convatlas.data.transforms.augment import Augmentation, SampleRng
from convatlas.data.transforms.preprocessing import Preprocessing, UnreadableSample, load_batch
from convatlas.data.transforms.random_crop import Crop
from convatlas.errors import UserError, printable


@dataclass(frozen=True)
class TrainBatches(torch.utils.data.Dataset[Batch | UserError]):
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
            if ahead > max_unreadable(len(order)):
                raise UserError(too_many_unreadable(len(order), broken[0]))
            again = np.isin(indices, [u.index for u in lacking])
            indices = np.where(again, order[(places + ahead) % len(order)], indices)
            images[torch.from_numpy(again)], lacking = self._read(epoch, indices[again])
            broken = broken + lacking
        targets = torch.from_numpy(self.split.labels[indices])
        return Batch(images, targets, torch.from_numpy(indices), sorted(set(broken)))

    def _read(self, epoch: int, indices: NDArray[np.int64]) -> tuple[Tensor, list[UnreadableSample]]:
        if self.crop is None:
            return self.preprocessing.load_batch(self.split.images, indices)
        crop = self.crop
        u = SampleRng(self.seed, epoch, indices, len(self.augment)).uniforms(crop.uniforms + 1)

        def see(picture: ImageLike, place: int) -> Tensor:
            box = crop.box(picture, self.preprocessing.size, u[place, :-1])
            view = crop_resize(picture, box, self.preprocessing.size, self.preprocessing.channels)
            return view[None].flip(3)[0] if crop.mirror and u[place, -1] < 0.5 else view

        return load_batch(self.split.images, indices, see, self.preprocessing.shape)

    def augmented(self, images: Tensor, indices: Tensor, step: int) -> Tensor:
        """The images of a batch, on any device, as the network is to see them in this step."""
        for stream, augmentation in enumerate(self.augment):
            images = augmentation(images, SampleRng(self.seed, step // self.steps_per_epoch, indices.cpu().numpy(), stream))
        return images


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    return counter_rng.permutation(seed, epoch, count)


def max_unreadable(samples: int) -> int:
    """So many broken samples, that were on no quarantine list, a run puts up with."""
    return max(samples // 100, 50)


def too_many_unreadable(samples: int, first: UnreadableSample) -> str:
    return (
        f"more than {max_unreadable(samples):,} of {samples:,} images cannot be read, {printable(first.file)} first ({first.reason}): "
        f"look at them with convatlas data check, which puts them on the quarantine list, and train again"
    )
