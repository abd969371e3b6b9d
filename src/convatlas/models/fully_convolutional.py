"""A classifier applied as convolutions to images larger than its own. Simonyan, Zisserman 2014,
arXiv:1409.1556, sec. 3.2.

The first fully connected layer becomes a convolution over its input grid, the others become 1x1 convolutions,
and the result is a map of class scores. The global average pooling at the end of later networks becomes a
sliding average over a window of the same grid.

Where no layer pads, position (i, j) of the map holds the network's scores for the crop that begins at (i, j)
times its stride. Where layers pad, they differ near the crop's border: the crop has zeros there, the map has
the image.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convatlas.errors import UsageError
from convatlas.models.network import Network


class FullyConvolutional(nn.Module):
    """images (n, in_chans, h, w), no side shorter than that of `size` -> class scores (n, num_classes, rows,
    columns), 1x1 for images of `size`.

    `size` is (height, width) of the images that the network was trained on. The module uses the network's own
    layers, which should be in eval mode. Raises UsageError for a network whose layers do not follow one
    another to a vector of scores.
    """

    def __init__(self, network: Network, size: tuple[int, int]):
        super().__init__()
        layers = list(_layers(network))
        flatten = next((index for index, layer in enumerate(layers) if isinstance(layer, nn.Flatten)), None)
        if flatten is None or type(network).forward is not Network.forward:
            name = network.architecture.name if network.architecture else type(network).__name__
            raise UsageError(
                f"{name} does not end in a vector of class scores: evaluate it with other crops than dense"
            )
        trunk = layers[:flatten]
        head = [layer for layer in layers[flatten + 1 :] if not isinstance(layer, nn.Dropout)]
        pool = trunk.pop() if isinstance(trunk[-1], nn.AdaptiveAvgPool2d) else None
        self.trunk = nn.Sequential(*trunk)
        self.head = nn.Sequential(*head)
        parameter = next(network.parameters())
        with torch.no_grad():
            maps = self.trunk(parameter.new_zeros(1, network.in_chans, *size))
            self.grid = maps.shape[2], maps.shape[3]
            pooled = maps if pool is None else pool(maps)
            self.slides_average = pool is not None and pooled.shape[2:] == (1, 1)
            self.first_conv: tuple[Tensor, Tensor | None] | None = None  # weight and bias
            if pooled.shape[2:] != (1, 1):
                assert isinstance(head[0], nn.Linear)
                self.first_conv = _conv_weight(head[0], maps.shape[1], self.grid, pool), head[0].bias
                self.head = nn.Sequential(*head[1:])

    def forward(self, images: Tensor) -> Tensor:
        maps = self.trunk(images)
        if self.slides_average:
            maps = F.avg_pool2d(maps, self.grid, stride=1)
        elif self.first_conv is not None:
            maps = F.conv2d(maps, *self.first_conv)
        n, _, rows, columns = maps.shape
        # the other layers take one position at a time, as 1x1 convolutions do
        scores: Tensor = self.head(maps.permute(0, 2, 3, 1).flatten(0, 2))
        return scores.view(n, rows, columns, -1).permute(0, 3, 1, 2)


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


def _conv_weight(layer: nn.Linear, channels: int, grid: tuple[int, int], pool: nn.Module | None) -> Tensor:
    """The weight of a linear layer as that of a convolution over its input grid: (out, channels, *grid).

    A pooling before the layer is linear, so its matrix is multiplied in.
    """
    weight = layer.weight.view(len(layer.weight), channels, -1)  # (out, channels, positions)
    if pool is not None:
        identity = torch.eye(grid[0] * grid[1], dtype=weight.dtype, device=weight.device)
        # (positions of the grid, pooled positions)
        pool_matrix = pool(identity.view(-1, 1, *grid)).flatten(1)
        if not pool_matrix.equal(identity):
            weight = weight @ pool_matrix.T
    return weight.view(*weight.shape[:2], *grid)
