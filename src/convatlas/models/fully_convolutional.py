"""A classifier applied as convolutions to images larger than its own. Simonyan, Zisserman 2014,
arXiv:1409.1556, sec. 3.2.

The first fully connected layer becomes a convolution over its input grid, the others become 1x1 convolutions,
and the result is a map of class scores. The global pooling at the end of later networks becomes a sliding
pooling over a window of the same grid.

Where no layer pads, position (i, j) of the map holds the network's scores for the crop that begins at (i, j)
times its stride. Where layers pad, they differ near the crop's border: the crop has zeros there, the map has
the image. Squeeze and excitation averages over the whole image, not over the crop.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from convatlas.errors import UsageError
from convatlas.models.network import Network, check_image_shape, eval_mode


class FullyConvolutional(nn.Module):
    """images (n, in_chans, h, w), no side shorter than that of `size` -> class scores (n, num_classes, rows,
    columns), 1x1 for images of `size`.

    `size` is (height, width) of the images that the network was trained on. The module uses the network's own
    layers and weights, without dropout between the fully connected ones; the layers should be in eval mode.
    (Where an adaptive pooling precedes the first of those, that has weights of its own.)
    Raises UsageError for a network whose layers do not follow one another to a vector of scores; its forward
    for smaller images.
    """

    def __init__(self, network: Network, size: tuple[int, int]):
        super().__init__()
        layers = list(_layers(network))
        flatten = next((index for index, layer in enumerate(layers) if isinstance(layer, nn.Flatten)), None)
        if flatten is None or type(network).forward is not Network.forward:
            raise UsageError(
                f"{network.name} does not end in a vector of class scores, so it cannot become convolutions: "
                "take a classifier, or evaluate with other crops than dense"
            )
        trunk = layers[:flatten]
        head = [layer for layer in layers[flatten + 1 :] if not isinstance(layer, nn.Dropout)]
        pool = trunk.pop() if isinstance(trunk[-1], nn.AdaptiveAvgPool2d | nn.AdaptiveMaxPool2d) else None
        self.name = network.name
        self.in_chans = network.in_chans
        self.size = size
        self.trunk = nn.Sequential(*trunk)
        self.window: nn.Module = nn.Identity()
        parameter = next(network.parameters())
        with torch.no_grad(), eval_mode(self.trunk):
            maps = self.trunk(parameter.new_zeros(1, network.in_chans, *size))
            grid = maps.shape[2], maps.shape[3]
            pooled = maps if pool is None else pool(maps)
            if pooled.shape[2:] != (1, 1):
                linear = head.pop(0)
                assert isinstance(linear, nn.Linear)
                self.window = _as_convolution(linear, maps.shape[1], grid, pool)
            elif pool is not None:
                is_max = isinstance(pool, nn.AdaptiveMaxPool2d)
                self.window = (nn.MaxPool2d if is_max else nn.AvgPool2d)(grid, stride=1)
        self.head = nn.Sequential(*head)
        self.training = network.training

    def forward(self, images: Tensor) -> Tensor:
        images = check_image_sides(images, self.name, self.in_chans, self.size)
        maps = self.window(self.trunk(images))
        n, _, rows, columns = maps.shape
        # the other layers take one position at a time, as 1x1 convolutions do
        scores: Tensor = self.head(maps.permute(0, 2, 3, 1).flatten(0, 2))
        return scores.view(n, rows, columns, -1).permute(0, 3, 1, 2)


def check_image_sides(images: Tensor, name: str, in_chans: int, size: tuple[int, int]) -> Tensor:
    """The images themselves. Raises UsageError for images below `size` (height, width). As
    `check_image_shape`, a leaf for `torch.fx`."""
    images = check_image_shape(images, name, in_chans, 1, "", None)
    height, width = images.shape[2:]
    if height < size[0] or width < size[1]:
        raise UsageError(
            f"{name} as convolutions takes images of at least {size[0]}x{size[1]}, its own size, not "
            f"{height}x{width}: enlarge them"
        )
    return images


torch.fx.wrap("check_image_sides")


def _layers(network: Network) -> Iterator[nn.Module]:
    """The network's children in order, without auxiliary heads; a child that contains a Flatten is replaced
    by its layers."""
    for name, layer in network.named_children():
        if name in network.heads:
            continue
        if isinstance(layer, nn.Sequential) and any(isinstance(child, nn.Flatten) for child in layer):
            yield from layer
        else:
            yield layer


def _as_convolution(
    layer: nn.Linear, channels: int, grid: tuple[int, int], pool: nn.Module | None
) -> nn.Conv2d:
    """A linear layer as a convolution over its input grid, with its weights.

    A pooling before the layer is linear, so its matrix is multiplied in.
    """
    weight = layer.weight.view(len(layer.weight), channels, -1)  # (out, channels, positions)
    if pool is not None:
        identity = torch.eye(grid[0] * grid[1], dtype=weight.dtype, device=weight.device)
        # (positions of the grid, pooled positions)
        pool_matrix = pool(identity.view(-1, 1, *grid)).flatten(1)
        if not pool_matrix.equal(identity):
            weight = weight @ pool_matrix.T
    conv = nn.Conv2d(channels, len(weight), grid, bias=layer.bias is not None, device="meta")
    conv.weight = nn.Parameter(weight.view(*weight.shape[:2], *grid), layer.weight.requires_grad)
    conv.bias = layer.bias
    return conv
