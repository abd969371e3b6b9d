"""BN-Inception. Ioffe, Szegedy 2015, "Batch Normalization: Accelerating Deep Network Training by Reducing
Internal Covariate Shift", arXiv:1502.03167, Fig. 5 (appendix). Input 3 x 224 x 224.

GoogLeNet with batch norm between each convolution, now without bias, and its ReLU; two 3x3 in place of the
5x5; modules 3c and 4e reduce the grid with stride 2; no response normalisation, no dropout.

Slips resolved
- Fig. 5 prints 576 channels for 4c and 4d and 1024 for 4e: its own filters sum to 608, 608 and 1056, and so
  do ours.
- The appendix's "separable convolution with depth multiplier 8 on the first layer" has no row in Fig. 5: ours
  is its 7x7 with 64 filters.
Unstated: padding (ours keeps the grid; average pooling ignores it; max pooling at stride 2 has 1 on each
side, so the network takes images of any size), the initialisation (ours: Glorot's).

Edition `pytorchcv`: the convolutions keep their biases; average pooling counts the padding; poolings at
stride 2 have no padding but round up, so in 3c and 4e they agree with the convolutions on even grids only.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from convatlas.errors import UsageError
from convatlas.layers.conv import Concat, Conv, conv_chain, conv_norm_relu
from convatlas.layers.init import glorot_uniform
from convatlas.models.network import ImageSize, ModelEntry, Network, output_side, scale_channels


@dataclass(frozen=True)
class Row:
    """A row of Fig. 5: #1x1, #3x3 reduce, #3x3, double #3x3 reduce, double #3x3, pooling and its projection.

    Without a projection ("pass through") the module has stride 2.
    """

    c1x1: int
    reduce_3x3: int
    c3x3: int
    reduce_double: int
    double_3x3: int
    pool: str
    projection: int | None


FIG_5 = {
    "inception_3a": Row(64, 64, 64, 64, 96, "avg", 32),
    "inception_3b": Row(64, 64, 96, 64, 96, "avg", 64),
    "inception_3c": Row(0, 128, 160, 64, 96, "max", None),
    "inception_4a": Row(224, 64, 96, 96, 128, "avg", 128),
    "inception_4b": Row(192, 96, 128, 96, 128, "avg", 128),
    "inception_4c": Row(160, 128, 160, 128, 160, "avg", 128),
    "inception_4d": Row(96, 128, 192, 160, 192, "avg", 128),
    "inception_4e": Row(0, 128, 192, 192, 256, "max", None),
    "inception_5a": Row(352, 192, 320, 160, 224, "avg", 128),
    "inception_5b": Row(352, 192, 320, 192, 224, "max", 128),
}


def avg_pool() -> nn.Module:
    """Average pooling that keeps the grid."""
    return nn.AvgPool2d(3, 1, 1, count_include_pad=False)


def max_pool_stride_2() -> nn.Module:
    return nn.MaxPool2d(3, 2, 1)


@dataclass(frozen=True)
class Parts:
    """The parts in which editions differ. `se_layer` builds a module's squeeze and excitation from its
    channels."""

    conv: Conv = conv_norm_relu
    avg_pool: Callable[[], nn.Module] = avg_pool
    stride_2_pool: Callable[[], nn.Module] = max_pool_stride_2
    se_layer: Callable[[int], nn.Module] | None = None


def inception_module(parts: Parts, c: int, row: Row, width: float) -> tuple[nn.Module, int]:
    """An inception module and its output channels."""
    stride = 2 if row.projection is None else 1
    reduce_3x3 = scale_channels(row.reduce_3x3, width)
    c3x3 = scale_channels(row.c3x3, width)
    reduce_double = scale_channels(row.reduce_double, width)
    double = scale_channels(row.double_3x3, width)
    branches: dict[str, nn.Module] = {
        "branch_3x3": conv_chain(parts.conv, c, (reduce_3x3, 1), (c3x3, 3, stride)),
        "branch_double_3x3": conv_chain(parts.conv, c, (reduce_double, 1), (double, 3), (double, 3, stride)),
    }
    if row.projection is None:
        branches["branch_pool"] = parts.stride_2_pool()
        c_out = c3x3 + double + c
    else:
        c1x1 = scale_channels(row.c1x1, width)
        projection = scale_channels(row.projection, width)
        pool = parts.avg_pool() if row.pool == "avg" else nn.MaxPool2d(3, 1, 1)
        branches = {"branch_1x1": parts.conv(c, c1x1, 1)} | branches
        branches["branch_pool"] = nn.Sequential(pool, parts.conv(c, projection, 1))
        c_out = c1x1 + c3x3 + double + projection
    concat = Concat(branches)
    return (nn.Sequential(concat, parts.se_layer(c_out)) if parts.se_layer else concat), c_out


class BNInception(Network):
    """images (n, in_chans, h, w) of any size (the paper: 224x224) -> logits (n, num_classes).

    The paper has no dropout; `dropout` drops the pooled features.
    """

    def __init__(
        self,
        parts: Parts,
        num_classes: int = 1000,
        in_chans: int = 3,
        width: float = 1.0,
        image_size: ImageSize = None,  # no layer depends on it: the features are averaged over the grid
        dropout: float = 0.0,
    ):
        super().__init__(in_chans)
        c64, c = scale_channels(64, width), scale_channels(192, width)
        self.conv1 = parts.conv(in_chans, c64, 7, 2)
        self.pool1 = parts.stride_2_pool()
        self.conv2_reduce = parts.conv(c64, c64, 1)
        self.conv2 = parts.conv(c64, c, 3)
        self.pool2 = parts.stride_2_pool()
        for name, row in FIG_5.items():
            module, c = inception_module(parts, c, row, width)
            self.add_module(name, module)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(c, num_classes)
        self.initialize(glorot_uniform)


class BNInceptionPytorchcv(BNInception):
    """images (n, in_chans, h, w), at least 31x31 and with even grids at 3c and 4e, such as 224x224 -> logits
    (n, num_classes)."""

    def __init__(
        self,
        num_classes: int = 1000,
        in_chans: int = 3,
        width: float = 1.0,
        image_size: ImageSize = None,
        dropout: float = 0.0,
    ):
        parts = Parts(
            conv=partial(conv_norm_relu, bias=True),
            avg_pool=partial(nn.AvgPool2d, 3, 1, 1, ceil_mode=True),
            stride_2_pool=partial(nn.MaxPool2d, 3, 2, ceil_mode=True),
        )
        super().__init__(parts, num_classes, in_chans, width, image_size, dropout)
        self.min_size = 31
        self.min_size_layer = "inception_4e"

    def check_images(self, images: Tensor) -> Tensor:
        return check_even_grids(super().check_images(images))


def check_even_grids(images: Tensor) -> Tensor:
    """The images themselves. Raises UsageError where the grid at 3c or 4e would be odd. As
    `check_image_shape`, a leaf for `torch.fx`."""
    for side in images.shape[2:]:
        grid_3c = output_side(side, [(7, 2, 3, False), (3, 2, 0, True), (3, 2, 0, True)])
        if grid_3c % 2 or grid_3c // 2 % 2:
            raise UsageError(
                "edition pytorchcv of bn_inception takes sides whose grids at 3c and 4e are even, such "
                f"as multiples of 32, not {side}: resize the images, or build edition='paper'"
            )
    return images


torch.fx.wrap("check_even_grids")


ENTRIES = [
    ModelEntry(
        name="bn_inception",
        builders={"paper": partial(BNInception, Parts()), "pytorchcv": BNInceptionPytorchcv},
        paper="Batch Normalization: Accelerating Deep Network Training by Reducing Internal Covariate Shift",
        year=2015,
        source="arXiv:1502.03167, Fig. 5",
        input=(3, 224, 224),
        headline="top-5 7.82 %, ILSVRC-2012 validation, 1 network, 1 crop (Fig. 4)",
    )
]
