"""Samples for classification: images with labels."""

from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from convatlas.data.dataset import Split
from convatlas.data.images.decode import ImageLike
from convatlas.data.images.resize import crop_resize
from convatlas.data.loading.batch import Samples
from convatlas.data.transforms.preprocessing import Preprocessing, UnreadableSample, load_batch
from convatlas.data.transforms.random_crop import Crop
from convatlas.data.transforms.sample_rng import SampleRng


@dataclass(frozen=True)
class LabeledSamples:
    """`crop` draws the part of each image that is used (None: as in evaluation)."""

    split: Split
    preprocessing: Preprocessing
    crop: Crop | None = None

    def subset(self, indices: NDArray[np.int64]) -> Self:
        return replace(self, split=self.split.subset(indices))

    def load(self, rng: SampleRng) -> Samples:
        """The samples of `rng`, with its random numbers: images, and labels (n,)."""
        images, unreadable = self._load_images(rng)
        return Samples(images, torch.from_numpy(self.split.labels[rng.indices]), unreadable)

    def load_plain(self, indices: NDArray[np.int64]) -> Samples:
        """The samples as in evaluation."""
        images, unreadable = self.preprocessing.load_batch(self.split.images, indices)
        return Samples(images, torch.from_numpy(self.split.labels[indices]), unreadable)

    def _load_images(self, rng: SampleRng) -> tuple[Tensor, list[UnreadableSample]]:
        if self.crop is None:
            return self.preprocessing.load_batch(self.split.images, rng.indices)
        crop = self.crop
        preprocessing = self.preprocessing
        size = preprocessing.input_size
        u = rng.uniforms(crop.num_uniforms + 1)

        def random_crop(image: ImageLike, position: int) -> Tensor:
            box = crop.sample_box(image, size, u[position, :-1])
            view = crop_resize(image, box, size, preprocessing.channels, preprocessing.value_range)
            return view[None].flip(3)[0] if crop.hflip and u[position, -1] < 0.5 else view

        return load_batch(self.split.images, rng.indices, random_crop, preprocessing.shape)
