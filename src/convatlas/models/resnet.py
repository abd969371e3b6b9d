"""ResNet. He, Zhang, Ren, Sun 2015, "Deep Residual Learning for Image Recognition", arXiv:1512.03385.

The networks for CIFAR-10 of sec. 4.2: 6n + 2 layers, on 32x32 images.

Unstated: the fully connected layer's initialisation (ours: that of the other layers) and batch norm's constants (ours: torch's).
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn

from convatlas.errors import UsageError
from convatlas.layers.residual import SHORTCUTS, Residual, conv_norm
from convatlas.models.network import Entry, Network, scaled


def basic(c_in: int, width: int, stride: int) -> nn.Sequential:
    """Two 3x3 convolutions; the stride stands in the first."""
    return nn.Sequential(
        OrderedDict(conv1=conv_norm(c_in, width, 3, stride), relu=nn.ReLU(inplace=True), conv2=conv_norm(width, width, 3)),
    )


@dataclass(frozen=True)
class Cifar:
    """Sec. 4.2: a 3x3 convolution, then 2n layers on each of the 32, 16 and 8 grids with 16, 32 and 64 filters."""

    n: int
    widths: tuple[int, int, int] = (16, 32, 64)
    block: Callable[[int, int, int], nn.Module] = basic

    @property
    def layers(self) -> int:
        return 6 * self.n + 2


# Table 6 and Fig. 6
CIFAR = {row.layers: row for row in map(Cifar, (3, 5, 7, 9, 18, 200))}


class ResNet(Network):
    """images (n, in_chans, h, w), any h and w of at least 4 (the paper: 32x32) -> logits (n, num_classes).

    `shortcut` is option "A", "B" or "C" of sec. 3.3; None gives the plain network. The paper has no dropout; `dropout` drops
    the pooled features.
    """

    def __init__(
        self,
        row: Cifar,
        num_classes: int = 10,
        in_chans: int = 3,
        width: float = 1.0,
        image_size: int | tuple[int, int] | None = None,  # nothing here depends on it: the features are averaged over the grid
        dropout: float = 0.0,
        shortcut: str | None = "A",
    ):
        super().__init__()
        if shortcut is not None and shortcut not in SHORTCUTS:
            raise UsageError(f"shortcut {shortcut!r} does not exist: expected A, B or C")
        c = scaled(row.widths[0], width)
        self.conv1 = conv_norm(in_chans, c, 3)
        self.relu = nn.ReLU(inplace=True)
        for stage, filters in enumerate(row.widths):
            c_out, units = scaled(filters, width), []
            for unit in range(row.n):
                stride = 2 if stage > 0 and unit == 0 else 1
                units.append(Residual(row.block(c, c_out, stride), SHORTCUTS[shortcut](c, c_out, stride) if shortcut else None))
                c = c_out
            self.add_module(f"conv{stage + 2}_x", nn.Sequential(*units))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(c, num_classes)
        self.apply(initialise)

    def forward(self, images: Tensor) -> Tensor:
        for layer in self.children():
            images = layer(images)
        return images


def initialise(module: nn.Module) -> None:
    """He et al. 2015, arXiv:1502.01852, eq. 10: zero-mean Gaussian of standard deviation sqrt(2 / fan-in), biases zero."""
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _entry(name: str, row: Cifar, **fixed: Any) -> Entry:
    return Entry(
        name=name,
        build=partial(ResNet, row, **fixed),
        paper="Deep Residual Learning for Image Recognition",
        year=2015,
        source="arXiv:1512.03385, sec. 4.2",
        recipe="resnet_cifar",
        input=(3, 32, 32),
    )


ENTRIES = [_entry(f"resnet{layers}_cifar", row) for layers, row in CIFAR.items()] + [
    _entry(f"plain{layers}_cifar", row, shortcut=None) for layers, row in CIFAR.items() if layers <= 110
]
