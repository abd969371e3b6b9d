"""ShuffleNet. Zhang, Zhou, Lin, Sun 2017, "ShuffleNet: An Extremely Efficient Convolutional Neural Network
for Mobile Devices", arXiv:1707.01083, Table 1 and Fig. 2. Input 3 x 224 x 224.

The residual function of a unit is a grouped 1x1 to a quarter of its output's channels, channel shuffle, a
depthwise 3x3 and a grouped 1x1; batch norm follows each, ReLU only the first. At stride 1 it is added to its
input. The first unit of a stage, at stride 2, is concatenated with the input's 3x3 average (Fig. 2c), so its
function gives only the remaining channels. The first grouped 1x1 of Stage2 has no groups.

`width` is the scale factor s (sec. 3.3, Table 2). Channels are rounded to the nearest multiple of 4 x groups,
those of Conv1 to the nearest multiple of groups.

Slips resolved
- The paper says that s scales the channels, and Table 1 lists Conv1's 24 among them. Only with a scaled Conv1
  do 0.5x (38 million) and 2x (524) have the printed cost, and only with an unscaled one 1.5x (292): so 12,
  24, 24 and 48, as in the authors' later release.
- Table 1's complexities leave out the fully connected layer; those of 0.5x, 1.5x and 2x include it.
- 0.25x is printed as 13 million: with three groups it takes 11.0.
- The authors' later release applies the inverse of the permutation of sec. 3.1: ours follows the paper.
Unstated: the order of the concatenation (ours: the average first, as in the authors' later release), whether
that average counts the padding (ours: yes, likewise), padding (ours: 1 on each side of a 3x3), the
initialisation (ours: He's), batch norm's constants (ours: torch's).

Edition `pytorchcv`: the residual function is concatenated first; Conv1 is scaled at every width, 1.5 too;
convolutions initialised by He's procedure from uniform distributions, the linear layer by torch's default.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import nn

from convatlas.errors import UsageError
from convatlas.layers.conv import Concat, conv_norm, conv_norm_relu
from convatlas.layers.init import he_normal
from convatlas.layers.residual import Residual
from convatlas.layers.shuffle import ChannelShuffle
from convatlas.models.network import ImageSize, ModelEntry, Network, scale_channels

# Table 1: output channels of Stage2, Stage3 and Stage4 for g groups, and the units of each stage
TABLE_1 = {
    1: (144, 288, 576),
    2: (200, 400, 800),
    3: (240, 480, 960),
    4: (272, 544, 1088),
    8: (384, 768, 1536),
}
REPEAT = (1 + 3, 1 + 7, 1 + 3)

ChannelsAtWidth = Callable[[float, int], int]
"""(width, multiple) -> channels"""


def paper_conv1_channels(width: float, multiple: int) -> int:
    """Conv1's 24 channels at the width that gives the printed complexities: see "Slips resolved"."""
    return scale_channels(24, 1.0 if width == 1.5 else width, multiple)


def init_pytorchcv(module: nn.Module) -> None:
    """The initialisation of the edition `pytorchcv`."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_uniform_(module.weight)


@dataclass(frozen=True)
class Parts:
    """The parts in which editions differ.

    `se_layer` builds the squeeze and excitation on a residual function's output from its channels.
    """

    conv1_channels: ChannelsAtWidth = paper_conv1_channels
    shortcut_first: bool = True
    se_layer: Callable[[int], nn.Module] | None = None
    init_weights: Callable[[nn.Module], None] = he_normal


def make_unit(parts: Parts, c_in: int, c_out: int, groups: int, first_groups: int, stride: int) -> nn.Module:
    """A unit of Fig. 2b at stride 1, Fig. 2c at stride 2.

    (n, c_in, h, w) -> (n, c_out, ceil(h / stride), ceil(w / stride)).
    """
    inner = c_out // 4
    c_function = c_out if stride == 1 else c_out - c_in
    function = nn.Sequential(
        OrderedDict(
            gconv1=conv_norm(c_in, inner, 1, groups=first_groups),
            relu=nn.ReLU(inplace=True),
            shuffle=ChannelShuffle(groups),
            dwconv=conv_norm(inner, inner, 3, stride, groups=inner),
            gconv2=conv_norm(inner, c_function, 1, groups=groups),
        )
    )
    if parts.se_layer:
        function.add_module("se", parts.se_layer(c_function))
    if stride == 1:
        return Residual(function, nn.Identity())
    branches: dict[str, nn.Module] = {"shortcut": nn.AvgPool2d(3, stride, 1), "function": function}
    concat = Concat(branches if parts.shortcut_first else dict(reversed(branches.items())))
    return nn.Sequential(OrderedDict(concat=concat, relu=nn.ReLU(inplace=True)))


class ShuffleNet(Network):
    """images (n, in_chans, h, w) of any size (the paper: 224x224) -> logits (n, num_classes).

    `groups` is g of Table 1: 1, 2, 3, 4 or 8. The paper has no dropout; `dropout` drops the pooled features.
    """

    def __init__(
        self,
        parts: Parts,
        num_classes: int = 1000,
        in_chans: int = 3,
        width: float = 1.0,
        image_size: ImageSize = None,  # no layer depends on it: the features are averaged over the grid
        dropout: float = 0.0,
        groups: int = 3,
    ):
        super().__init__(in_chans)
        if groups not in TABLE_1:
            raise UsageError(f"groups {groups} does not exist: Table 1 has {', '.join(map(str, TABLE_1))}")
        c = parts.conv1_channels(width, groups)
        self.conv1 = conv_norm_relu(in_chans, c, 3, 2)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        for stage, (channels, repeat) in enumerate(zip(TABLE_1[groups], REPEAT, strict=True), start=2):
            c_out = scale_channels(channels, width, multiple=4 * groups)
            if c_out <= c:
                raise UsageError(
                    f"width {width} leaves {c_out} channels in stage{stage} after {c}: its first unit must "
                    "add some, so give a larger width"
                )
            units = []
            for number in range(repeat):
                first_groups = 1 if stage == 2 and number == 0 else groups
                stride = 2 if number == 0 else 1
                units.append(make_unit(parts, c, c_out, groups, first_groups, stride))
                c = c_out
            self.add_module(f"stage{stage}", nn.Sequential(*units))
        self.globalpool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(c, num_classes)
        self.initialize(parts.init_weights)


PYTORCHCV = Parts(
    conv1_channels=partial(scale_channels, 24), shortcut_first=False, init_weights=init_pytorchcv
)
ENTRIES = [
    ModelEntry(
        name="shufflenet_v1",
        builders={"paper": partial(ShuffleNet, Parts()), "pytorchcv": partial(ShuffleNet, PYTORCHCV)},
        paper="ShuffleNet: An Extremely Efficient Convolutional Neural Network for Mobile Devices",
        year=2017,
        source="arXiv:1707.01083, Table 1",
        input=(3, 224, 224),
        headline="top-1 32.6 % with 3 groups, ILSVRC-2012 validation, 1 crop (Table 2)",
    )
]
