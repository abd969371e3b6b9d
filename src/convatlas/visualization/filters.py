"""The filters of a network's first layer, drawn: they alone can be read as pixels. Zeiler, Fergus 2013, arXiv:1311.2901, Fig. 6."""

import math

from torch import Tensor, nn

from convatlas.errors import UserError
from convatlas.visualization.plots import Tile, grid, signal_to_image

SIDE = 640  # pixels, about, of the picture's width


def first_filters(model: nn.Module) -> tuple[str, Tensor]:
    """(path, filters (n, c, h, w)) of the first convolution, float32 on the CPU. Raises UserError for a network without one."""
    for path, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            return path, module.weight.detach().float().cpu()
    raise UserError(f"{type(model).__name__} has no convolution: no filters to draw")


def draw_filters(filters: Tensor) -> Tile:
    """The filters (n, c, h, w) side by side, each by itself: grey is zero, its strongest weight black or white. Those of one or three
    channels as pictures; of others, each channel as one."""
    if filters.shape[1] not in (1, 3):
        filters = filters.flatten(0, 1)[:, None]
    columns = math.ceil(math.sqrt(2 * len(filters))) if len(filters) > 8 else len(filters)  # twice as wide as high
    times = max(1, SIDE // (columns * (filters.shape[3] + 1)))
    return grid([signal_to_image(one).repeat(times, 0).repeat(times, 1) for one in filters], columns)
