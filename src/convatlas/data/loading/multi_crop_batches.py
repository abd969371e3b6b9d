"""A split as the papers' evaluations look at it: of every picture, decoded once, the windows that a protocol asks for."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from convatlas.data.dataset import Split
from convatlas.data.images.decode import DecodedImage, ImageLike, UnreadableImage
from convatlas.data.images.resize import resize, resize_center_crop, resize_to_each
from convatlas.data.transforms.multi_crop import CropView, FullImage, MultiCrop
from convatlas.data.transforms.preprocessing import Preprocessing, UnreadableSample
from convatlas.errors import UserError


class MultiCropBatch(NamedTuple):
    """`stacks`, each (k, c, h, w), uint8, go through the network one after another; their rows together are all windows of the first
    picture, then of the next. Pictures that cannot be read, or that fill up the last step, have rows of zeros (or no stacks at all)."""

    stacks: list[Tensor]
    pictures: int  # that the rows are of
    targets: Tensor  # (n,), int64
    indices: Tensor  # (n,), int64: which samples these are
    unreadable: list[UnreadableSample]  # samples that belong here but cannot be read


@dataclass(frozen=True)
class MultiCropBatches(torch.utils.data.Dataset[MultiCropBatch | UserError]):
    """A split in its own order, seen through `views`: crops in stacks of one shape of at most `batch` rows, or whole pictures (`Dense`),
    a stack a size. Without `mirrors` the mirrored windows are left out.

    What a network answers for a window then hangs on the picture alone: not on its neighbours, nor on how many `ranks` share the split,
    of which each gets every `ranks`th step.
    """

    split: Split
    preprocessing: Preprocessing
    views: MultiCrop
    batch: int
    hflip_safe: bool = True
    rank: int = 0
    ranks: int = 1

    @property
    def views_per_image(self) -> int:
        """Of each picture."""
        return len(self._views(*self.preprocessing.size))

    @property
    def images_per_step(self) -> int:
        """In a step."""
        return 1 if isinstance(self.views, FullImage) else max(1, self.batch // self.views_per_image)

    @property
    def steps(self) -> int:
        """Of this rank."""
        return len(range(self.rank, -(-len(self.split) // self.images_per_step), self.ranks))

    def __getitem__(self, step: int) -> MultiCropBatch | UserError:
        start = (self.rank + step * self.ranks) * self.images_per_step
        inside = np.arange(start, min(start + self.images_per_step, len(self.split)))
        seen: dict[int, list[Tensor]] = {}
        unread = []
        for place, index in enumerate(inside.tolist()):
            try:
                seen[place] = self.views_of(self.split.images.image(index))
            except UnreadableImage as error:
                unread.append(UnreadableSample(index, error.name, error.reason))
            except UserError as error:
                return error
        stacks = self._whole(seen.get(0, [])) if isinstance(self.views, FullImage) else self._stacked(seen)
        return MultiCropBatch(stacks, self.images_per_step, torch.from_numpy(self.split.labels[inside]), torch.from_numpy(inside), unread)

    def views_of(self, picture: ImageLike) -> list[Tensor]:
        """The windows of a picture, each (channels, height, width), uint8; all but those of `Dense` have the network's size."""
        geometry = self.preprocessing
        if geometry.fit == "pad":  # the network knows the border, so the windows are of the picture with it
            picture = DecodedImage(geometry.transform(picture).permute(1, 2, 0).numpy())
        elif geometry.fit == "resize":
            picture = DecodedImage(resize_center_crop(picture, geometry.source, geometry.channels).permute(1, 2, 0).numpy())
        windows = self._views(picture.height, picture.width)
        sizes = sorted({window.whole for window in windows})
        wholes = dict(zip(sizes, resize_to_each(picture, sizes, geometry.channels), strict=True))
        return [self._cut(wholes[window.whole], window) for window in windows]

    def _views(self, height: int, width: int) -> list[CropView]:
        found = self.views.views(height, width, self.preprocessing.size[0])
        return [window for window in found if self.hflip_safe or not window.hflip]

    def _cut(self, whole: Tensor, window: CropView) -> Tensor:
        top, left, height, width = window.box
        part = whole[:, top : top + height, left : left + width]
        if not isinstance(self.views, FullImage) and (height, width) != self.preprocessing.size:
            part = resize(part.permute(1, 2, 0).numpy(), self.preprocessing.size)
        return part.flip(2) if window.hflip else part

    def _stacked(self, seen: dict[int, list[Tensor]]) -> list[Tensor]:
        """All windows of a step's pictures, in equal stacks of at most `batch` rows."""
        windows = self.views_per_image
        count = self.images_per_step * windows
        rows = torch.zeros(count, *self.preprocessing.shape, dtype=torch.uint8).contiguous(memory_format=torch.channels_last)
        for place, parts in seen.items():
            for row, part in enumerate(parts, place * windows):
                rows[row] = part
        stacks = next(stacks for stacks in range(1, count + 1) if count % stacks == 0 and count // stacks <= self.batch)
        return list(rows.chunk(stacks))

    def _whole(self, parts: list[Tensor]) -> list[Tensor]:
        """The picture's windows, those of one size together."""
        stacks: list[list[Tensor]] = []
        for part in parts:
            if stacks and stacks[-1][0].shape == part.shape:
                stacks[-1].append(part)
            else:
                stacks.append([part])
        return [torch.stack(stack).contiguous(memory_format=torch.channels_last) for stack in stacks]
