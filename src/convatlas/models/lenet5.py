"""LeNet-5. LeCun, Bottou, Bengio, Haffner 1998, "Gradient-Based Learning Applied to Document Recognition",
Proc. IEEE 86(11), sec. II-B and Fig. 2. Input 1 x 32 x 32.

layer   maps or units   kernel   output    trainable parameters
C1      6               5x5      28x28     156
S2      6               2x2      14x14     12
C3      16              5x5      10x10     1,516     (Table I below)
S4      16              2x2      5x5       32
C5      120             5x5      1x1       48,120
F6      84                       84        10,164
OUTPUT  10 classes      RBF      10        0         (codes fixed)

Every layer up to F6 ends in the scaled tanh. Logits are minus the squared distances of eq. 7.

Unstated
- The pixels of the codes' 7x12 bitmaps, which Fig. 3 shows. Ours are in `lenet5_glyphs.txt`: ten digits drawn
  by us, then the other printable ASCII characters from X11's public domain font 7x13. Further codes are
  random, from a fixed seed.
- The initialisation of biases and of the subsampling's coefficients (ours: like the weights, by their unit's
  fan-in).
"""

import math
from functools import cache
from importlib.resources import files

import torch
from torch import Tensor, nn

from convatlas.layers.lenet import EuclideanRBF, PartialConv2d, ScaledTanh, Subsample
from convatlas.models.network import (
    ImageSize,
    ModelEntry,
    Network,
    height_and_width,
    image_too_small,
    scale_channels,
)

# Table I: the maps of S2 that are inputs of each map of C3
C3 = (
    (0, 1, 2),
    (1, 2, 3),
    (2, 3, 4),
    (3, 4, 5),
    (0, 4, 5),
    (0, 1, 5),
    (0, 1, 2, 3),
    (1, 2, 3, 4),
    (2, 3, 4, 5),
    (0, 3, 4, 5),
    (0, 1, 4, 5),
    (0, 1, 2, 5),
    (0, 1, 3, 4),
    (1, 2, 4, 5),
    (0, 2, 3, 5),
    (0, 1, 2, 3, 4, 5),
)


def c3_table(s2_maps: int, c3_maps: int) -> list[list[int]]:
    """Table I for any numbers of maps: the input maps of each map of C3, from the nearest printed row and
    column."""
    rows = [C3[m * len(C3) // c3_maps] for m in range(c3_maps)]
    return [
        [i for i in range(s2_maps) if i * 6 // s2_maps in row] or [m % s2_maps] for m, row in enumerate(rows)
    ]


@cache
def _read_glyphs() -> tuple[tuple[float, ...], ...]:
    blocks = files(__package__).joinpath("lenet5_glyphs.txt").read_text().strip().split("\n\n")
    columns = [zip(*(line.split() for line in block.splitlines()), strict=True) for block in blocks]
    return tuple(
        tuple(1.0 if c == "#" else -1.0 for c in "".join(glyph)) for block in columns for glyph in block
    )


def class_codes(num_classes: int) -> Tensor:
    """The codes of the classes, (num_classes, 84) of -1 and +1.

    They are 7x12 bitmaps of 0 to 9, then of the other printable ASCII characters, then random.
    """
    glyphs = torch.tensor(_read_glyphs()[:num_classes])
    if num_classes <= len(glyphs):
        return glyphs
    generator = torch.Generator().manual_seed(1998)
    bits = torch.randint(0, 2, (num_classes - len(glyphs), 84), generator=generator, device="cpu")
    return torch.cat([glyphs, (bits * 2.0 - 1.0).to(glyphs.device)])


class LeNet5(Network):
    """images (n, in_chans, h, w) of `image_size` (the paper: 32x32) -> logits (n, num_classes).

    `width` scales the maps of C1 to C5; F6 keeps its 84 units, the pixels of a code. `dropout` (the paper:
    none) acts on F6.
    """

    def __init__(
        self,
        num_classes: int = 10,
        in_chans: int = 1,
        width: float = 1.0,
        image_size: ImageSize = None,
        dropout: float = 0.0,
    ):
        size = height_and_width(image_size, (32, 32))
        s4_size = (_s4_side(size[0]), _s4_side(size[1]))
        if min(s4_size) < 1:
            raise image_too_small("lenet5", size, 16, "C5")
        super().__init__(in_chans, fixed_size=size)
        c1, c3, c5 = (scale_channels(maps, width) for maps in (6, 16, 120))
        self.C1 = nn.Sequential(nn.Conv2d(in_chans, c1, 5), ScaledTanh())
        self.S2 = nn.Sequential(Subsample(c1), ScaledTanh())
        self.C3 = nn.Sequential(PartialConv2d(c1, c3_table(c1, c3), 5), ScaledTanh())
        self.S4 = nn.Sequential(Subsample(c3), ScaledTanh())
        self.C5 = nn.Sequential(nn.Conv2d(c3, c5, s4_size), ScaledTanh(), nn.Flatten())
        self.F6 = nn.Sequential(nn.Linear(c5, 84), ScaledTanh(), nn.Dropout(dropout))
        self.output = EuclideanRBF(class_codes(num_classes))
        self.initialize(init_weights)


def _s4_side(side: int) -> int:
    """The side of S4's maps: C1 and C3 lose 4 pixels each, S2 and S4 halve the side."""
    return ((side - 4) // 2 - 4) // 2


def init_weights(module: nn.Module) -> None:
    """Draw uniformly between -2.4 / F and 2.4 / F, where F is the number of inputs of a unit (appendix A)."""
    match module:
        case PartialConv2d():
            bound = 2.4 / torch.tensor(module.fan_in)  # differs from map to map
            with torch.no_grad():
                module.weight.uniform_(-1, 1).mul_(bound[module.output_map, None, None])
                module.bias.uniform_(-1, 1).mul_(bound)
        case nn.Conv2d() | nn.Linear():
            limit = 2.4 / math.prod(module.weight.shape[1:])
            nn.init.uniform_(module.weight, -limit, limit)
            nn.init.uniform_(module.bias, -limit, limit)  # type: ignore[arg-type]
        case Subsample():
            nn.init.uniform_(module.coefficient, -2.4 / 4, 2.4 / 4)
            nn.init.uniform_(module.bias, -2.4 / 4, 2.4 / 4)


ENTRIES = [
    ModelEntry(
        name="lenet5",
        builders={"paper": LeNet5},
        paper="Gradient-Based Learning Applied to Document Recognition",
        year=1998,
        source="Proc. IEEE 86(11), sec. II-B, Fig. 2",
        input=(1, 32, 32),
        headline="0.95 %, MNIST test (Fig. 9)",
    )
]
