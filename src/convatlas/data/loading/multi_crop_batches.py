"""Batches for multi-crop evaluation: each image is decoded once, then cropped to the views of a protocol."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from convatlas.data.dataset import Split
from convatlas.data.images.decode import DecodedImage, ImageLike
from convatlas.data.images.resize import resize, resize_center_crop, resize_to_each
from convatlas.data.images.unreadable import UnreadableImage
from convatlas.data.transforms.multi_crop import CropView, FullImage, MultiCrop
from convatlas.data.transforms.preprocessing import Preprocessing, UnreadableSample
from convatlas.errors import UserError


class MultiCropBatch(NamedTuple):
    """The views of several images.

    The network is applied to each of `stacks`, (k, c, h, w), uint8, one after another. Their concatenated
    rows are all views of the first image, then of the next. Images that cannot be read, and those that pad
    the last step, have rows of zeros (a full image: no stacks).
    """

    stacks: list[Tensor]
    num_images: int  # in the rows, padding included
    targets: Tensor  # (n,), int64
    indices: Tensor  # (n,), int64: the samples' indices in the split
    unreadable: list[UnreadableSample]  # samples of this batch that cannot be read


@dataclass(frozen=True)
class MultiCropBatches(torch.utils.data.Dataset[MultiCropBatch | UserError]):
    """A split in its own order, as `views` of each image.

    Crops come in stacks of one shape of at most `batch_size` rows; full images (`FullImage`) in one stack for
    each size. Without `hflip_safe` the flipped views are left out.

    The logits of a view therefore depend on its image alone: neither on other images nor on the number of
    processes. Each of `world_size` processes gets every `world_size`th step.
    """

    split: Split
    preprocessing: Preprocessing
    views: MultiCrop
    batch_size: int
    hflip_safe: bool = True
    rank: int = 0
    world_size: int = 1

    @property
    def views_per_image(self) -> int:
        return len(self._views_at(*self.preprocessing.input_size))

    @property
    def images_per_step(self) -> int:
        return 1 if isinstance(self.views, FullImage) else max(1, self.batch_size // self.views_per_image)

    @property
    def steps(self) -> int:
        """The number of steps of this rank."""
        total_steps = -(-len(self.split) // self.images_per_step)
        return len(range(self.rank, total_steps, self.world_size))

    def __getitem__(self, step: int) -> MultiCropBatch | UserError:
        start = (self.rank + step * self.world_size) * self.images_per_step
        indices = np.arange(start, min(start + self.images_per_step, len(self.split)))
        crops_by_position: dict[int, list[Tensor]] = {}
        unreadable = []
        for position, index in enumerate(indices.tolist()):
            try:
                crops_by_position[position] = self.views_of(self.split.images.image(index))
            except UnreadableImage as error:
                unreadable.append(UnreadableSample(index, error.name, error.reason))
            except UserError as error:
                return error
        if isinstance(self.views, FullImage):
            stacks = self._stack_by_size(crops_by_position.get(0, []))
        else:
            stacks = self._stack_evenly(crops_by_position)
        targets = torch.from_numpy(self.split.labels[indices])
        return MultiCropBatch(stacks, self.images_per_step, targets, torch.from_numpy(indices), unreadable)

    def views_of(self, image: ImageLike) -> list[Tensor]:
        """The views of an image, each (c, h, w), uint8, of the network's size except for `FullImage`."""
        preprocessing = self.preprocessing
        if preprocessing.mode == "pad":  # the network was trained with the border, so the views include it
            image = DecodedImage(preprocessing.transform(image).permute(1, 2, 0).numpy())
        elif preprocessing.mode == "resize":
            pixels = resize_center_crop(
                image, preprocessing.resize_size, preprocessing.channels, preprocessing.value_range
            )
            image = DecodedImage(pixels.permute(1, 2, 0).numpy())
        views = self._views_at(image.height, image.width)
        sizes = sorted({view.resize_size for view in views})
        resized_images = resize_to_each(image, sizes, preprocessing.channels, preprocessing.value_range)
        resized_by_size = dict(zip(sizes, resized_images, strict=True))
        return [self._crop(resized_by_size[view.resize_size], view) for view in views]

    def _views_at(self, height: int, width: int) -> list[CropView]:
        views = self.views.views(height, width, self.preprocessing.input_size[0])
        return [view for view in views if self.hflip_safe or not view.hflip]

    def _crop(self, resized: Tensor, view: CropView) -> Tensor:
        """Cut a view out of the resized image (c, h, w)."""
        top, left, height, width = view.box
        crop = resized[:, top : top + height, left : left + width]
        if not isinstance(self.views, FullImage) and (height, width) != self.preprocessing.input_size:
            crop = resize(crop.permute(1, 2, 0).numpy(), self.preprocessing.input_size)
        return crop.flip(2) if view.hflip else crop

    def _stack_evenly(self, crops_by_position: dict[int, list[Tensor]]) -> list[Tensor]:
        """Stack the crops of a step's images in equal stacks of at most `batch_size` rows."""
        views_per_image = self.views_per_image
        num_rows = self.images_per_step * views_per_image
        rows = torch.zeros(num_rows, *self.preprocessing.shape, dtype=torch.uint8)
        rows = rows.contiguous(memory_format=torch.channels_last)
        for position, crops in crops_by_position.items():
            for row, crop in enumerate(crops, position * views_per_image):
                rows[row] = crop
        num_stacks = next(
            count
            for count in range(1, num_rows + 1)
            if num_rows % count == 0 and num_rows // count <= self.batch_size
        )
        return list(rows.chunk(num_stacks))

    def _stack_by_size(self, crops: list[Tensor]) -> list[Tensor]:
        """Stack consecutive views of one image that have the same size."""
        groups: list[list[Tensor]] = []
        for crop in crops:
            if groups and groups[-1][0].shape == crop.shape:
                groups[-1].append(crop)
            else:
                groups.append([crop])
        return [torch.stack(group).contiguous(memory_format=torch.channels_last) for group in groups]
