"""From an image of any size to the network's input size. Training, evaluation and prediction share it."""

from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from convatlas.data.dataset import ArrayImages, ImageSource
from convatlas.data.images.decode import ImageLike
from convatlas.data.images.deep_pixels import ValueRange
from convatlas.data.images.resize import resize_center_crop, resize_to_each
from convatlas.data.images.unreadable import UnreadableImage
from convatlas.runtime.threads import single_threaded_pool
from convatlas.storage.records import Record

MAX_PADDING = 4  # pixels a side; images that need more are resized instead
MAX_SIDE = 1 << 13  # pixels a side


@dataclass(frozen=True, order=True)
class UnreadableSample:
    """A sample that cannot be read: its index in the split, its file, the reason."""

    index: int
    file: str
    reason: str


class Preprocessing(Record, frozen=True, kw_only=True, omit_defaults=True):
    """What happens between an image and the network's input.

    An image file is first brought to `resize_size` (height, width), the size of the data set's images: its
    shorter side is resized with antialiasing and its centre is cropped. The result is then brought to
    `input_size`, the network's, as `mode` says: padded with zeros ("pad", for a `resize_size` that is at most
    4 pixels a side smaller), resized with antialiasing ("resize"), or centre-cropped ("crop", as other
    libraries' networks expect).

    For networks that label pixels ("tiles") an image has `scale` times its size, and the network sees tiles
    of `input_size`, of which it labels the pixels without `margin` on each side. Where an image is covered,
    tiles begin at multiples of `stride`, that of the network's coarsest grid.

    Pixels of more than 8 bits are scaled before: the ends of `value_range`, the training set's, become 0 and
    255. None stands for the full range of 16 bits; deeper images are then unreadable. Images of 8 bits keep
    their values. A record without it is written as before there was one.
    """

    channels: int
    resize_size: tuple[int, int]
    input_size: tuple[int, int]
    mode: Literal["none", "pad", "resize", "crop", "tiles"]
    value_range: ValueRange | None = None
    scale: float = 1.0
    margin: int = 0
    stride: int = 1

    def __post_init__(self) -> None:
        """Raise ValueError for an impossible geometry; the readers of files turn it into a UserError."""
        for name, (height, width) in (("resize_size", self.resize_size), ("input_size", self.input_size)):
            if not (0 < height <= MAX_SIDE and 0 < width <= MAX_SIDE):
                raise ValueError(
                    f"{name} should be from 1 to {MAX_SIDE:,} pixels a side, not {height}x{width}"
                )
        if self.value_range is not None and not -inf < self.value_range[0] < self.value_range[1] < inf:
            raise ValueError(f"value_range should be two finite numbers, the lower first: {self.value_range}")
        if self.channels < 1:
            raise ValueError(f"channels should be 1 or more, not {self.channels}")
        missing = self._missing_pixels()
        possible = {
            "none": not any(missing),
            "tiles": not any(missing) and 0 <= 2 * self.margin < min(self.input_size),
            "pad": min(missing) >= 0,
            "resize": True,
            "crop": max(missing) <= 0,
        }
        if not possible[self.mode]:
            before, after = (f"{height}x{width}" for height, width in (self.resize_size, self.input_size))
            raise ValueError(f"{before} pixels do not become {after} by {self.mode!r}")

    def _missing_pixels(self) -> tuple[int, int]:
        """The difference of `input_size` and `resize_size` in height and width."""
        return self.input_size[0] - self.resize_size[0], self.input_size[1] - self.resize_size[1]

    def __call__(self, images: Tensor) -> Tensor:
        """Images (n, channels, *resize_size), uint8 -> (n, channels, *input_size), uint8."""
        if self.mode == "pad":
            rows, columns = self._missing_pixels()
            top, left = rows // 2, columns // 2
            return F.pad(images, (left, columns - left, top, rows - top))
        if self.mode == "crop":
            height, width = self.input_size
            top, left = (self.resize_size[0] - height) // 2, (self.resize_size[1] - width) // 2
            return images[:, :, top : top + height, left : left + width]
        if self.mode == "resize":
            return F.interpolate(images, self.input_size, mode="bilinear", antialias=True)
        return images

    @property
    def shape(self) -> tuple[int, int, int]:
        """The network's input: (channels, height, width)."""
        return self.channels, *self.input_size

    @property
    def output_size(self) -> tuple[int, int]:
        """(height, width) of the pixels of a tile that are labelled."""
        return self.input_size[0] - 2 * self.margin, self.input_size[1] - 2 * self.margin

    def read_scaled(self, image: ImageLike) -> Tensor:
        """An image at `scale` times its size: (channels, h, w), uint8. Raises UnreadableImage."""
        size = max(1, round(self.scale * image.height)), max(1, round(self.scale * image.width))
        (scaled,) = resize_to_each(image, [size], self.channels, self.value_range)
        return scaled

    def transform(self, image: ImageLike, position: int = 0) -> Tensor:
        """An image of any size -> (channels, *input_size), uint8. Raises UnreadableImage."""
        pixels = resize_center_crop(image, self.resize_size, self.channels, self.value_range)
        return self(pixels[None])[0]

    def load_batch(
        self, images: ImageSource, indices: NDArray[np.int64]
    ) -> tuple[Tensor, list[UnreadableSample]]:
        """Load (n, channels, *input_size), uint8, and list the unreadable samples, which are zeros in it."""
        if isinstance(images, ArrayImages) and images.array.shape[1] == self.channels:
            return self(torch.from_numpy(images.array[indices])), []
        return load_batch(images, indices, self.transform, self.shape)


def load_batch(
    images: ImageSource,
    indices: NDArray[np.int64],
    transform: Callable[[ImageLike, int], Tensor],
    shape: tuple[int, int, int],
) -> tuple[Tensor, list[UnreadableSample]]:
    """Load images by `transform(image, position in the batch)`, which returns a tensor of `shape`.

    Returns the batch (n, *shape), uint8, channels-last, and its unreadable samples, which are zeros in it.
    """
    with torch.inference_mode(False):  # the threads below write into it, and are outside any inference mode
        batch = torch.empty((len(indices), *shape), dtype=torch.uint8, memory_format=torch.channels_last)

    def load(positions: range) -> list[UnreadableSample]:
        unreadable = []
        for position in positions:
            index = int(indices[position])
            try:
                batch[position] = transform(images.image(index), position)
            except UnreadableImage as error:
                batch[position] = 0
                unreadable.append(UnreadableSample(index, error.name, error.reason))
        return unreadable

    num_threads = torch.get_num_threads()  # 1 in a loader's worker
    if num_threads == 1:
        return batch, load(range(len(indices)))
    # decoding and resizing let other threads run
    shares = [range(start, len(indices), num_threads) for start in range(num_threads)]
    unreadable_by_thread = single_threaded_pool(num_threads, "reading").map(load, shares)
    return batch, [sample for unreadable in unreadable_by_thread for sample in unreadable]


def fixed_size_preprocessing(
    channels: int,
    resize_size: tuple[int, int],
    input_size: tuple[int, int],
    value_range: ValueRange | None = None,
) -> Preprocessing:
    """The preprocessing for a data set whose images all have the size `resize_size` (height, width).

    They are padded to the network's `input_size` if that adds at most `MAX_PADDING` pixels a side, else
    resized.
    """
    missing = [target - side for side, target in zip(resize_size, input_size, strict=True)]
    mode: Literal["none", "pad", "resize"] = "resize"
    if all(0 <= pixels <= 2 * MAX_PADDING for pixels in missing):
        mode = "pad" if any(missing) else "none"
    return Preprocessing(
        channels=channels,
        resize_size=resize_size,
        input_size=input_size,
        mode=mode,
        value_range=value_range,
    )


def center_crop_preprocessing(
    channels: int,
    input_size: tuple[int, int],
    margin: float = 1.0,
    value_range: ValueRange | None = None,
) -> Preprocessing:
    """The preprocessing for photographs: resize to `margin` times `input_size`, crop the centre."""
    resize_size = round(input_size[0] * margin), round(input_size[1] * margin)
    mode: Literal["none", "crop"] = "none" if resize_size == input_size else "crop"
    return Preprocessing(
        channels=channels,
        resize_size=resize_size,
        input_size=input_size,
        mode=mode,
        value_range=value_range,
    )


def tile_preprocessing(
    channels: int,
    tile: tuple[int, int],
    margin: int,
    stride: int,
    scale: float = 1.0,
    value_range: ValueRange | None = None,
) -> Preprocessing:
    """The preprocessing for networks that label pixels."""
    return Preprocessing(
        channels=channels,
        resize_size=tile,
        input_size=tile,
        mode="tiles",
        value_range=value_range,
        scale=scale,
        margin=margin,
        stride=stride,
    )
