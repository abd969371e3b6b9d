"""Inception-v2 and v3. Szegedy, Vanhoucke, Ioffe, Shlens, Wojna 2015, "Rethinking the Inception Architecture
for Computer Vision", arXiv:1512.00567. Input 3 x 299 x 299.

`inception_v3` is the network that the authors released, with the names of its endpoints: 3 + 1 + 4 + 1 + 2
modules. `inception_v2` is Table 1: the same stem up to the first pooling, then three 3x3 convolutions, and 3
+ 5 + 2 modules with a grid reduction (Fig. 10) between the groups (sec. 6). `field` chooses the stems of
Table 2; `stem="7x7"` and `aux_norm=False` give the rows of Table 3 before "Factorized 7x7" and
"BN-auxiliary".

Slips resolved
- Table 1 prints three modules on 35x35 with 288 channels and five on 17x17 with 768, and no reductions:
  sec. 6 has them in between.
- The released network has a 1x1 convolution of 80 filters and max pooling where Table 1 has 3x3 convolutions
  at stride 1 and 2.
- Sec. 6 says the auxiliary head was put "on top of the last 17x17 layer" (Fig. 8): it takes the output of
  Mixed_6e.
Unstated: the widths inside the modules of v2 (ours: v3's; the first 17x17 module has 128 channels inside, the
last 192), the effect of `field` on padding (ours: none, so at 79 the grids are 36, 17 and 8), batch norm's
epsilon (the release: 0.001).
With those widths v2 takes 6.1 billion multiply-adds with the 7x7 stem and 6.5 without: Table 3 has 3.8 and
4.8, so its authors' modules were narrower. Table 2's three networks are said to cost nearly the same: the one
at 79 takes 6 % less.

Average pooling inside the modules ignores the padding, as TensorFlow's does. Edition `torchvision` counts it;
nothing else differs.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import nn

from convatlas.errors import UsageError
from convatlas.layers.conv import Concat, Conv, ConvStep, conv_norm_relu, conv_relu
from convatlas.layers.init import truncated_normal
from convatlas.layers.pooling import PoolToGrid
from convatlas.models.network import ImageSize, ModelEntry, Network, scale_channels

AvgPool = Callable[[], nn.Module]
ROW, COLUMN = (1, 7), (7, 1)
PARALLEL_1X3_3X1 = (
    "1x3 and 3x1"  # in place of a kernel: a 1x3 and a 3x1 with the step's channels each (Fig. 7)
)


@dataclass(frozen=True)
class ModuleSpec:
    """Parallel chains of convolutions and a pooling branch.

    The pooling is average pooling with a 1x1 projection, or without a projection max pooling at stride 2.
    """

    branches: dict[str, list[Any]]  # of convolution steps
    projection: int | None = None


def module_35x35(projection: int) -> ModuleSpec:
    """Fig. 5, except that the release keeps a 5x5 beside the two stacked 3x3."""
    return ModuleSpec(
        {
            "branch_1x1": [(64, 1)],
            "branch_5x5": [(48, 1), (64, 5)],
            "branch_double_3x3": [(64, 1), (96, 3), (96, 3)],
        },
        projection,
    )


def module_17x17(inner: int) -> ModuleSpec:
    """Fig. 6 with n = 7: each 7x7 is factorised into a row and a column."""
    return ModuleSpec(
        {
            "branch_1x1": [(192, 1)],
            "branch_7x7": [(inner, 1), (inner, ROW), (192, COLUMN)],
            "branch_double_7x7": [(inner, 1), (inner, COLUMN), (inner, ROW), (inner, COLUMN), (192, ROW)],
        },
        projection=192,
    )


# Fig. 7: the filter banks are expanded, to spread the representation
MODULE_8X8 = ModuleSpec(
    {
        "branch_1x1": [(320, 1)],
        "branch_3x3": [(384, 1), (384, PARALLEL_1X3_3X1)],
        "branch_double_3x3": [(448, 1), (384, 3), (384, PARALLEL_1X3_3X1)],
    },
    projection=192,
)
# Fig. 10: parallel convolutions and pooling halve the grid
REDUCTION_35X35 = ModuleSpec(
    {
        "branch_3x3": [(384, 3, 2, 0)],
        "branch_double_3x3": [(64, 1), (96, 3), (96, 3, 2, 0)],
    }
)
REDUCTION_17X17 = ModuleSpec(
    {
        "branch_3x3": [(192, 1), (320, 3, 2, 0)],
        "branch_7x7_3x3": [(192, 1), (192, ROW), (192, COLUMN), (192, 3, 2, 0)],
    }
)

Rows = list[tuple[str, ConvStep | ModuleSpec | None]]
"""The rows of a table by name: a convolution, a module, or None for 3x3 max pooling at stride 2"""

STEM: Rows = [
    ("Conv2d_1a_3x3", (32, 3, 2, 0)),
    ("Conv2d_2a_3x3", (32, 3, 1, 0)),
    ("Conv2d_2b_3x3", (64, 3)),
    ("MaxPool_3a_3x3", None),
]
V3: Rows = [
    ("Conv2d_3b_1x1", (80, 1)),
    ("Conv2d_4a_3x3", (192, 3, 1, 0)),
    ("MaxPool_5a_3x3", None),
    ("Mixed_5b", module_35x35(projection=32)),
    ("Mixed_5c", module_35x35(projection=64)),
    ("Mixed_5d", module_35x35(projection=64)),
    ("Mixed_6a", REDUCTION_35X35),
    ("Mixed_6b", module_17x17(inner=128)),
    ("Mixed_6c", module_17x17(inner=160)),
    ("Mixed_6d", module_17x17(inner=160)),
    ("Mixed_6e", module_17x17(inner=192)),
    ("Mixed_7a", REDUCTION_17X17),
    ("Mixed_7b", MODULE_8X8),
    ("Mixed_7c", MODULE_8X8),
]
# Table 1 after the first pooling
V2: Rows = [
    ("Conv2d_3b_3x3", (80, 3, 1, 0)),
    ("Conv2d_4a_3x3", (192, 3, 2, 0)),
    ("Conv2d_5a_3x3", (288, 3)),
    ("Mixed_5b", module_35x35(projection=64)),
    ("Mixed_5c", module_35x35(projection=64)),
    ("Mixed_5d", module_35x35(projection=64)),
    ("Mixed_6a", REDUCTION_35X35),
    ("Mixed_6b", module_17x17(inner=128)),
    ("Mixed_6c", module_17x17(inner=160)),
    ("Mixed_6d", module_17x17(inner=160)),
    ("Mixed_6e", module_17x17(inner=160)),
    ("Mixed_6f", module_17x17(inner=192)),
    ("Mixed_7a", REDUCTION_17X17),
    ("Mixed_7b", MODULE_8X8),
    ("Mixed_7c", MODULE_8X8),
]
# Table 2
FIELDS = {
    299: "first stride 2, then max pooling",
    151: "first stride 1, then max pooling",
    79: "first stride 1, no pooling",
}


conv: Conv = partial(conv_norm_relu, eps=1e-3)


def build_module(c: int, width: float, avg_pool: AvgPool, spec: ModuleSpec) -> tuple[nn.Module, int]:
    """A module and its output channels."""
    branches = {name: build_branch(c, width, steps) for name, steps in spec.branches.items()}
    if spec.projection is None:
        branches["branch_pool"] = nn.MaxPool2d(3, 2), c
    else:
        projection = scale_channels(spec.projection, width)
        branches["branch_pool"] = nn.Sequential(avg_pool(), conv(c, projection, 1)), projection
    concat = Concat({name: branch for name, (branch, _) in branches.items()})
    return concat, sum(channels for _, channels in branches.values())


def build_branch(c: int, width: float, steps: list[Any]) -> tuple[nn.Module, int]:
    """A chain of convolutions and its output channels."""
    layers: list[nn.Module] = []
    for channels, kernel, *stride_and_pad in steps:
        c_out = scale_channels(channels, width)
        if kernel == PARALLEL_1X3_3X1:
            layers.append(
                Concat({"branch_1x3": conv(c, c_out, (1, 3)), "branch_3x1": conv(c, c_out, (3, 1))})
            )
            c = 2 * c_out
        else:
            layers.append(conv(c, c_out, kernel, *stride_and_pad))
            c = c_out
    return nn.Sequential(*layers), c


class Inception(Network):
    """images (n, in_chans, h, w) -> logits (n, num_classes); `training_outputs` adds aux. At least 75x75 for
    v3 with field=299.

    `image_size` changes nothing: the auxiliary head pools any grid to the paper's 5x5. `field` (299, 151, 79)
    chooses the stem of Table 2, `stem` ("3x3", "7x7") the factorisation of its first layers (Table 3),
    `aux_norm` whether the auxiliary head has batch norm.
    """

    def __init__(
        self,
        rows: Rows,
        avg_pool: AvgPool,
        num_classes: int = 1000,
        in_chans: int = 3,
        width: float = 1.0,
        image_size: ImageSize = None,
        dropout: float = 0.2,
        aux: bool = True,
        field: int = 299,
        stem: str = "3x3",
        aux_norm: bool = True,
    ):
        if field not in FIELDS:
            raise UsageError(f"field {field} does not exist: Table 2 has 299, 151 and 79")
        if stem not in ("3x3", "7x7"):
            raise UsageError(f"stem {stem!r} does not exist: expected 3x3 or 7x7")
        if stem == "7x7" and field != 299:
            raise UsageError("stem 7x7 needs field 299: Table 2 has the other fields with 3x3 only")
        super().__init__(in_chans, min_size={299: 75, 151: 39, 79: 21}[field], min_size_layer="Mixed_7a")
        stem_rows = [*STEM]
        if stem == "7x7":
            stem_rows[:3] = [("Conv2d_1a_7x7", (64, 7, 2, 0))]
        if field != 299:
            stem_rows[0] = ("Conv2d_1a_3x3", (32, 3, 1, 0))
        if field == 79:
            stem_rows.pop()
        c = in_chans
        last_17x17 = max(name for name, _ in rows if name.startswith("Mixed_6"))
        for name, row in stem_rows + rows:
            if row is None:
                self.add_module(name, nn.MaxPool2d(3, 2))
            elif isinstance(row, ModuleSpec):
                module, c = build_module(c, width, avg_pool, row)
                self.add_module(name, module)
            else:
                c_out = scale_channels(row[0], width)
                self.add_module(name, conv(c, c_out, *row[1:]))
                c = c_out
            if aux and name == last_17x17:
                self.heads = {"aux": last_17x17}
                self.aux = auxiliary_head(c, width, num_classes, conv if aux_norm else conv_relu)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.dropout = nn.Dropout(dropout)
        self.logits = nn.Linear(c, num_classes)
        self.initialize(truncated_normal(0.1))
        if aux:  # as released
            for path, std in (("aux.conv2.conv.weight", 0.01), ("aux.logits.weight", 0.001)):
                nn.init.trunc_normal_(self.get_parameter(path), std=std, a=-2 * std, b=2 * std)


def auxiliary_head(c: int, width: float, num_classes: int, conv: Conv) -> nn.Sequential:
    """Fig. 8: average pooling 5x5/3 to 5x5, 1x1 convolution of 128 filters, 5x5 of 768, linear layer."""
    c128, c768 = scale_channels(128, width), scale_channels(768, width)
    layers = nn.Sequential()
    layers.add_module("avgpool", PoolToGrid(kernel=5, stride=3, paper_side=17))
    layers.add_module("conv1", conv(c, c128, 1))
    layers.add_module("conv2", conv(c128, c768, 5, 1, 0))
    layers.add_module("flatten", nn.Flatten())
    layers.add_module("logits", nn.Linear(c768, num_classes))
    return layers


_AVG_POOL_WITHOUT_PADDING = partial(nn.AvgPool2d, 3, 1, 1, count_include_pad=False)
_AVG_POOL_WITH_PADDING = partial(nn.AvgPool2d, 3, 1, 1)
_TITLE = "Rethinking the Inception Architecture for Computer Vision"
ENTRIES = [
    ModelEntry(
        name="inception_v2",
        builders={"paper": partial(Inception, V2, _AVG_POOL_WITHOUT_PADDING)},
        paper=_TITLE,
        year=2015,
        source="arXiv:1512.00567, Table 1",
        input=(3, 299, 299),
        headline="top-1 23.4 %, ILSVRC-2012 validation, 1 crop (Table 3)",
    ),
    ModelEntry(
        name="inception_v3",
        builders={
            "paper": partial(Inception, V3, _AVG_POOL_WITHOUT_PADDING),
            "torchvision": partial(Inception, V3, _AVG_POOL_WITH_PADDING),
        },
        paper=_TITLE,
        year=2015,
        source="arXiv:1512.00567, sec. 6, as released",
        input=(3, 299, 299),
        headline="top-5 5.6 %, ILSVRC-2012 validation, 1 crop (Table 3)",
    ),
]
