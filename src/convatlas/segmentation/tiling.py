"""The overlap-tile strategy. Ronneberger, Fischer, Brox 2015, arXiv:1505.04597, Fig. 2 and sec. 2.

An image of any size is predicted tile by tile; each tile is seen with its surroundings, and what lies outside
the image is its mirror image. Memory depends on the tile and the batch, not on the image.

Unstated: the mirror image (ours: does not repeat the border's pixels) and where tiles begin (ours: at
multiples of the network's stride, so that poolings have the same grid in every tile, and the prediction does
not depend on the tile's size).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice, product

import torch
from torch import Tensor

from convatlas.data.transforms.mirror import mirror
from convatlas.errors import UsageError

Logits = Callable[[Tensor], Tensor]
Tile = tuple[slice, slice, Tensor]


@dataclass(frozen=True)
class Tiling:
    """How an image is divided for a network.

    `tile`: (height, width) of the network's images. `margin`: the pixels on each side of a tile that are
    context alone. `valid`: the logits lack the margin, as those of convolutions without padding; otherwise
    they have the tile's size, and the margin is cropped. `stride`: of the network's coarsest grid; 1 for
    tiles that begin anywhere. Raises UsageError for a tile that leaves fewer pixels than a stride.
    """

    tile: tuple[int, int]
    margin: int
    valid: bool
    stride: int = 1

    def __post_init__(self) -> None:
        if self.margin < 0 or self.stride < 1 or min(self.output) < self.stride:
            needed = 2 * self.margin + self.stride
            raise UsageError(
                f"a tile of {self.tile[0]}x{self.tile[1]} with a margin of {self.margin} and a stride of "
                f"{self.stride} covers nothing: take tiles of at least {needed}x{needed}"
            )

    @property
    def output(self) -> tuple[int, int]:
        """(height, width) of what one tile predicts."""
        return self.tile[0] - 2 * self.margin, self.tile[1] - 2 * self.margin

    def intervals(self, size: tuple[int, int]) -> tuple[list[slice], list[slice]]:
        """The rows and the columns of an image of `size` (height, width) that each tile predicts."""
        rows, columns = map(_intervals, size, self.output, (self.stride, self.stride))
        return rows, columns

    def num_tiles(self, size: tuple[int, int]) -> int:
        rows, columns = self.intervals(size)
        return len(rows) * len(columns)


def iterate_tiles(logits_fn: Logits, image: Tensor, tiling: Tiling, batch: int = 1) -> Iterator[Tile]:
    """(rows, columns, logits (classes, rows, columns)) that cover the image (c, h, w) exactly once.

    `logits_fn` always gets a batch (batch, c, *tile) of the image's type; the last batch is filled with
    copies of its last tile. Raises UsageError for an image without pixels, and for logits of another size
    than the tiling says.
    """
    _, height, width = image.shape
    if not height or not width:
        raise UsageError(f"an image of {height}x{width} has no pixels to predict")
    areas = product(*tiling.intervals((height, width)))
    while group := list(islice(areas, batch)):
        tiles = [cut_tile(image, rows.start, columns.start, tiling) for rows, columns in group]
        tiles += tiles[-1:] * (batch - len(tiles))
        logits = _without_margin(logits_fn(torch.stack(tiles)), tiling)
        for (rows, columns), tile_logits in zip(group, logits, strict=False):
            yield rows, columns, tile_logits[:, : rows.stop - rows.start, : columns.stop - columns.start]


def cut_tile(image: Tensor, top: int, left: int, tiling: Tiling) -> Tensor:
    """(c, *tile): the tile that predicts the image (c, h, w) from row `top` and column `left` on, with its
    surroundings and their mirror images."""
    rows = mirror(torch.arange(tiling.tile[0]) + (top - tiling.margin), image.shape[1])
    columns = mirror(torch.arange(tiling.tile[1]) + (left - tiling.margin), image.shape[2])
    return image[:, rows[:, None].to(image.device), columns.to(image.device)]


def _intervals(size: int, output: int, stride: int) -> list[slice]:
    """The pixels of one axis that each tile predicts; tiles begin at multiples of the stride."""
    step = output // stride * stride
    starts = range(0, max(size - output, 0) + step, step)
    stops = [*starts[1:], size]
    return [slice(start, stop) for start, stop in zip(starts, stops, strict=True)]


def _without_margin(logits: Tensor, tiling: Tiling) -> Tensor:
    expected = tiling.output if tiling.valid else tiling.tile
    if logits.shape[2:] != expected:
        given = "x".join(map(str, logits.shape[2:]))
        raise UsageError(
            f"for tiles of {tiling.tile[0]}x{tiling.tile[1]} the network gave logits of {given}, not "
            f"{expected[0]}x{expected[1]}: set the tiling's margin and valid as the network has them"
        )
    if tiling.valid:
        return logits
    rows, columns = (slice(tiling.margin, tiling.margin + side) for side in tiling.output)
    return logits[:, :, rows, columns]
