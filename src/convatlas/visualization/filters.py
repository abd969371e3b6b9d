"""The filters of a network's first layer as an image: of all layers, only their weights correspond to pixels.
Zeiler, Fergus 2013, arXiv:1311.2901, Fig. 6."""

import math

from torch import Tensor, nn

from convatlas.errors import UserError, wrong_type
from convatlas.visualization.plots import RgbImage, make_grid, signal_to_image

IMAGE_WIDTH = 640  # pixels, approximately
MAX_ROW_FILTERS = 8  # so many filters stand in one row; more in a grid


def first_filters(model: nn.Module) -> tuple[str, Tensor]:
    """The path and the filters (n, c, h, w) of the first convolution, float32 on the CPU. Raises UserError
    for a network without a convolution."""
    if not isinstance(model, nn.Module):
        raise wrong_type("the model", model, "an nn.Module; of a classifier give classifier.model")
    for path, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            return path, module.weight.detach().float().cpu()
    raise UserError(f"{type(model).__name__} has no convolution: no filters to draw")


def draw_filters(filters: Tensor) -> RgbImage:
    """Draw filters (n, c, h, w) side by side, each scaled by itself: zero is grey, its strongest weight black
    or white. Filters of one or three channels are drawn as images, of others each channel as one image."""
    if filters.shape[1] not in (1, 3):
        filters = filters.flatten(0, 1)[:, None]
    num_columns = len(filters)
    if len(filters) > MAX_ROW_FILTERS:
        num_columns = _num_columns(len(filters))
    scale = max(1, IMAGE_WIDTH // (num_columns * (filters.shape[3] + 1)))
    images = [signal_to_image(filter).repeat(scale, 0).repeat(scale, 1) for filter in filters]
    return make_grid(images, num_columns)


def _num_columns(count: int) -> int:
    """Of a grid that is up to four times as wide as high: full if possible, else about twice as wide."""
    root = math.sqrt(count)
    candidates = range(math.ceil(root), math.ceil(2 * root) + 1)
    return min(candidates, key=lambda columns: (-count % columns > 0, abs(columns - math.sqrt(2) * root)))
