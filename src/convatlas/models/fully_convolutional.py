"""A classifier applied as convolutions all over pictures larger than its own. Simonyan, Zisserman 2014, arXiv:1409.1556, sec. 3.2:
the first fully connected layer becomes a convolution over the grid that it sees, the others convolutions of 1x1, and the result is a map
of class scores. An average over the grid, with which later networks end, becomes a window of that grid that slides.

A map's place (i, j) is what the network says of its own crop at (i, j) times its stride, where no layer pads. Where layers do, the crop's
border sees zeros and the map sees the picture.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convatlas.errors import UsageError
from convatlas.models.network import Network


class FullyConvolutional(nn.Module):
    """images (n, in_chans, h, w), no side shorter than `size`'s -> class scores (n, num_classes, rows, columns), 1x1 for images of `size`.

    `size` is (height, width) of the images that the network was trained on. It uses the network's own layers, which should be in eval
    mode. Raises UsageError for a network whose layers do not follow one another to a vector of scores.
    """

    def __init__(self, network: Network, size: tuple[int, int]):
        super().__init__()
        layers = list(_layers(network))
        flat = next((place for place, layer in enumerate(layers) if isinstance(layer, nn.Flatten)), None)
        if flat is None or type(network).forward is not Network.forward:
            name = network.architecture.name if network.architecture else type(network).__name__
            raise UsageError(f"{name} does not end in a vector of class scores: evaluate it with other crops than dense")
        trunk, head = layers[:flat], [layer for layer in layers[flat + 1 :] if not isinstance(layer, nn.Dropout)]
        pool = trunk.pop() if isinstance(trunk[-1], nn.AdaptiveAvgPool2d) else None
        self.trunk, self.head = nn.Sequential(*trunk), nn.Sequential(*head)
        parameter = next(network.parameters())
        with torch.no_grad():
            maps = self.trunk(parameter.new_zeros(1, network.in_chans, *size))
            self.grid = maps.shape[2], maps.shape[3]
            seen = maps if pool is None else pool(maps)
            self.averages = pool is not None and seen.shape[2:] == (1, 1)
            self.first: tuple[Tensor, Tensor | None] | None = None
            if seen.shape[2:] != (1, 1):
                assert isinstance(head[0], nn.Linear)
                self.first = _kernel(head[0], maps.shape[1], self.grid, pool), head[0].bias
                self.head = nn.Sequential(*head[1:])

    def forward(self, images: Tensor) -> Tensor:
        maps = self.trunk(images)
        if self.averages:
            maps = F.avg_pool2d(maps, self.grid, stride=1)
        elif self.first is not None:
            maps = F.conv2d(maps, *self.first)
        n, _, rows, columns = maps.shape
        # the rest sees a place at a time, as a convolution of 1x1 does
        scores: Tensor = self.head(maps.permute(0, 2, 3, 1).flatten(0, 2))
        return scores.view(n, rows, columns, -1).permute(0, 3, 1, 2)


def _layers(network: Network) -> Iterator[nn.Module]:
    """The network's children in order, without auxiliary heads; one that flattens in its midst comes as its parts."""
    for name, layer in network.named_children():
        if name in network.heads:
            continue
        if isinstance(layer, nn.Sequential) and any(isinstance(part, nn.Flatten) for part in layer):
            yield from layer
        else:
            yield layer


def _kernel(layer: nn.Linear, channels: int, grid: tuple[int, int], pool: nn.Module | None) -> Tensor:
    """The weights of a linear layer, as a convolution's over the grid that it sees; a pooling before it, which is linear, is worked in."""
    weight = layer.weight.view(len(layer.weight), channels, -1)  # (out, c, places)
    if pool is not None:
        single = torch.eye(grid[0] * grid[1], dtype=weight.dtype, device=weight.device)
        spread = pool(single.view(-1, 1, *grid)).flatten(1)  # what each place of the grid gives to each of the pooled
        if not spread.equal(single):
            weight = weight @ spread.T
    return weight.view(*weight.shape[:2], *grid)
