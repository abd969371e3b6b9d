"""Samples for segmentation: tiles of images with targets for their pixels."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from convatlas.data.dataset import Split
from convatlas.data.images.decode import ImageLike
from convatlas.data.loading.batch import Samples
from convatlas.data.mask import IGNORE, Mask
from convatlas.data.transforms.preprocessing import Preprocessing, load_batch
from convatlas.data.transforms.random_tile import RandomTile, TileGeometry, nearest
from convatlas.data.transforms.sample_rng import SampleRng


@dataclass(frozen=True)
class MaskedSamples:
    """`tile` draws the part of each image that is used; `make_target` makes the target of the mask of its
    labelled pixels, at the scale of the image."""

    split: Split
    preprocessing: Preprocessing
    tile: RandomTile
    make_target: Callable[[Mask], Tensor]

    def subset(self, indices: NDArray[np.int64]) -> Self:
        return replace(self, split=self.split.subset(indices))

    def load(self, rng: SampleRng) -> Samples:
        """The samples of `rng`, with its random numbers: tiles, and the targets of their labelled pixels."""
        u = rng.uniforms(self.tile.num_uniforms)

        def geometry(size: tuple[int, int], position: int) -> TileGeometry:
            own = replace(rng, indices=rng.indices[[position]], stream=rng.stream + 1)
            preprocessing = self.preprocessing
            return self.tile.geometry(size, preprocessing.input_size, preprocessing.margin, u[position], own)

        return self._load(rng.indices, geometry)

    def load_plain(self, indices: NDArray[np.int64]) -> Samples:
        """The samples' centres, neither mirrored nor deformed."""
        tile = RandomTile(scale=self.tile.scale)
        rng = SampleRng(0, 0, indices, 0)
        u = np.full(tile.num_uniforms, 0.5)

        def geometry(size: tuple[int, int], position: int) -> TileGeometry:
            return tile.geometry(size, self.preprocessing.input_size, self.preprocessing.margin, u, rng)

        return self._load(indices, geometry)

    def _load(
        self, indices: NDArray[np.int64], geometry: Callable[[tuple[int, int], int], TileGeometry]
    ) -> Samples:
        masks = self.split.masks
        assert masks is not None
        targets: dict[int, Tensor] = {}

        def load_tile(image: ImageLike, position: int) -> Tensor:
            mask = masks.mask(int(indices[position]))
            scaled = self.preprocessing.read_scaled(image)
            height, width = scaled.shape[1:]
            tile = geometry((height, width), position)
            labelled = tile.center(self.preprocessing.margin)
            classes = labelled.sample_ids(nearest(mask.classes, (height, width)), IGNORE)
            instances = None
            if mask.instances is not None:
                instances = labelled.sample_ids(nearest(mask.instances, (height, width)), 0)
            targets[position] = self.make_target(Mask(classes, instances))
            return tile.sample_image(scaled)

        images, unreadable = load_batch(self.split.images, indices, load_tile, self.preprocessing.shape)
        ignored = np.full(self.preprocessing.output_size, IGNORE, np.uint8)
        missing = self.make_target(Mask(ignored, np.zeros(ignored.shape, np.uint16)))
        stacked = [targets.get(position, missing) for position in range(len(indices))]
        return Samples(images, torch.stack(stacked), unreadable)
