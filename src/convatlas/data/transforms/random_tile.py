"""Tiles of images and their masks at random places: one geometry for both, by construction.

A geometry is the position in the image, in pixels, of every pixel of the tile. The image is interpolated
there, with its mirror image beyond its borders; a mask gives the id of the nearest pixel.
"""

from typing import ClassVar, NamedTuple, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from convatlas.data.transforms.elastic import ElasticTransform
from convatlas.data.transforms.mirror import mirror
from convatlas.data.transforms.sample_rng import SampleRng
from convatlas.storage.records import Record

Id = TypeVar("Id", np.uint8, np.uint16)


class TileGeometry(NamedTuple):
    """The rows and columns in the image of the pixels of a tile: they broadcast to (height, width). Whole
    numbers, unless the tile is deformed."""

    rows: NDArray[np.float64]
    columns: NDArray[np.float64]

    def sample_image(self, image: Tensor) -> Tensor:
        """(c, h, w), uint8 -> (c, *tile), uint8: bilinear, mirrored at the borders."""
        height, width = image.shape[1:]
        if self.rows.shape[1] == 1:
            rows, columns = (
                mirror(torch.from_numpy(positions.ravel().astype(np.int64)), side)
                for positions, side in ((self.rows, height), (self.columns, width))
            )
            return image[:, rows[:, None], columns]
        extents = np.maximum([width - 1, height - 1], 1)
        grid = 2 * np.stack([self.columns, self.rows], axis=-1) / extents - 1  # as grid_sample expects
        sampled = F.grid_sample(
            image[None].float(),
            torch.from_numpy(grid[None]).float(),
            "bilinear",
            padding_mode="reflection",
            align_corners=True,
        )
        return sampled[0].round().clamp(0, 255).byte()

    def sample_ids(self, ids: NDArray[Id], outside: int) -> NDArray[Id]:
        """(h, w) -> tile: the id of the nearest pixel, `outside` beyond the borders."""
        rows, columns = np.broadcast_arrays(
            np.rint(self.rows).astype(np.int64), np.rint(self.columns).astype(np.int64)
        )
        height, width = ids.shape
        inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
        sampled: NDArray[Id] = ids[rows.clip(0, height - 1), columns.clip(0, width - 1)]
        sampled[~inside] = outside
        return sampled

    def center(self, margin: int) -> "TileGeometry":
        """The geometry without `margin` pixels on each side."""
        if not margin:
            return self
        inner = slice(margin, -margin)
        rows = self.rows[inner, inner if self.rows.shape[1] > 1 else slice(None)]
        return TileGeometry(rows, self.columns[inner if self.columns.shape[0] > 1 else slice(None), inner])


class RandomTile(Record, frozen=True, tag=True, kw_only=True):
    """A tile of an image that was resized to `scale` times its size.

    The pixels that the network labels are a window of the image at a random place, or around an image that is
    smaller. With `hflip` half of the images are mirrored; `elastic` deforms the tile.
    """

    scale: float = 1.0
    hflip: bool = False
    elastic: ElasticTransform | None = None
    num_uniforms: ClassVar[int] = 3

    def __post_init__(self) -> None:
        if not self.scale > 0:
            raise ValueError(f"scale should be above 0, not {self.scale}")

    def geometry(
        self,
        image_size: tuple[int, int],
        tile: tuple[int, int],
        margin: int,
        u: NDArray[np.float64],
        rng: SampleRng,
    ) -> TileGeometry:
        """A random geometry for an image of `image_size` (height, width); the network labels the pixels of
        the `tile` (height, width) without `margin` on each side. `u` (num_uniforms,) and `rng`, of this
        sample alone, are the random numbers."""
        rows, columns = (
            _start(side, length - 2 * margin, float(random)) - margin + np.arange(length, dtype=np.float64)
            for side, length, random in zip(image_size, tile, u[:2], strict=True)
        )
        if self.hflip and u[2] < 0.5:
            columns = image_size[1] - 1 - columns
        if self.elastic is None:
            return TileGeometry(rows[:, None], columns[None])
        x, y = self.elastic.displacements(tile, rng)[0].numpy()
        return TileGeometry(rows[:, None] + y, columns[None] + x)


def _start(side: int, window: int, u: float) -> int:
    """Where a window begins on a side: at random inside, or around a shorter side."""
    slack = side - window
    return int(u * (slack + 1)) if slack >= 0 else slack // 2


def nearest(ids: NDArray[Id], size: tuple[int, int]) -> NDArray[Id]:
    """Ids (h, w) at another `size`: each pixel has the id at its centre; between two, the later one's."""
    if ids.shape == size:
        return ids
    rows, columns = (
        (2 * np.arange(new) + 1) * old // (2 * new)  # whole numbers: a centre between two pixels is exact
        for new, old in zip(size, ids.shape, strict=True)
    )
    resized: NDArray[Id] = ids[rows[:, None], columns]
    return resized
