"""U-Net. Ronneberger, Fischer, Brox 2015, "U-Net: Convolutional Networks for Biomedical Image Segmentation",
arXiv:1505.04597, Fig. 1. Input 1 x 572 x 572, output 2 x 388 x 388: no convolution is padded, so 92 pixels
are lost on every side.

23 convolutions: two 3x3 with ReLU on each level of both paths and at the bottom, a 2x2 "up-convolution" at
stride 2 into each level of the expansive path, the final 1x1. The contracting path's maps are cropped around
their centre and concatenated.
Initialisation (sec. 3): Gaussians of standard deviation sqrt(2 / N), N the incoming nodes of one neuron.

Unstated
- The dropout "at the end of the contracting path" (sec. 3.1): ours as released, 0.5 on the output of the
  fourth level, before it is copied, and on the output of the bottom.
- A ReLU after the up-convolutions: ours has none, as in Fig. 1's legend; the released networks have one.
- The biases' initialisation (ours: 0) and the order of concatenation (ours: Fig. 1's, the copied maps first).
"""

import math
from collections import OrderedDict

import torch
from torch import Tensor, nn

from convatlas.errors import UsageError
from convatlas.layers.upsampling import crop
from convatlas.models.network import ImageSize, ModelEntry, Network, scale_channels

# Fig. 1: the channels of both paths on each level, from the top, and of the bottom
FIG_1 = {"1": 64, "2": 128, "3": 256, "4": 512}
BOTTOM = 1024
STRIDE = 2 ** len(FIG_1)  # of the bottom: every 2x2 pooling needs an even grid (sec. 2)
MIN_SIZE = 188  # with which every convolution has a grid


class UNet(Network):
    """images (n, in_chans, h, w), both sides 188 + 16 i -> logits (n, num_classes, h - 184, w - 184) of the
    central pixels."""

    margin = 92  # pixels on every side that the logits lack
    stride = STRIDE

    def __init__(
        self,
        num_classes: int = 2,
        in_chans: int = 1,
        width: float = 1.0,
        image_size: ImageSize = None,  # no layer depends on it: all are convolutions
        dropout: float = 0.5,
    ):
        super().__init__(in_chans, min_size=MIN_SIZE, min_size_layer="expand3")
        c = in_chans
        for level, channels in FIG_1.items():
            c_out = scale_channels(channels, width)
            self.add_module(f"contract{level}", double_conv(c, c_out, dropout if level == "4" else None))
            self.add_module(f"pool{level}", nn.MaxPool2d(2))
            c = c_out
        c_out = scale_channels(BOTTOM, width)
        self.bottom = double_conv(c, c_out, dropout)
        c = c_out
        for level, channels in reversed(FIG_1.items()):
            c_out = scale_channels(channels, width)
            self.add_module(f"up{level}", nn.ConvTranspose2d(c, c_out, 2, stride=2))
            self.add_module(f"expand{level}", double_conv(2 * c_out, c_out))
            c = c_out
        self.score = nn.Conv2d(c, num_classes, 1)
        self.initialize(init_weights)

    def forward(self, images: Tensor) -> Tensor:
        images = self.check_images(images)
        x = images
        copies = []
        for level in FIG_1:
            x = self.get_submodule(f"contract{level}")(x)
            copies.append(x)
            x = self.get_submodule(f"pool{level}")(x)
        x = self.bottom(x)
        for level in reversed(FIG_1):
            x = self.get_submodule(f"up{level}")(x)
            x = torch.cat([crop(copies.pop(), like=x), x], dim=1)
            x = self.get_submodule(f"expand{level}")(x)
        return self.score(x)  # type: ignore[no-any-return]

    def image_size_for(self, size: tuple[int, int]) -> tuple[int, int]:
        """The smallest (height, width) of images whose logits have at least `size`."""
        height, width = (
            MIN_SIZE + self.stride * max(0, math.ceil((side + 2 * self.margin - MIN_SIZE) / self.stride))
            for side in size
        )
        return height, width

    def check_images(self, images: Tensor) -> Tensor:
        """Sec. 2: every 2x2 pooling needs an even grid, or the maps of the two paths are not aligned."""
        return check_even_grids(super().check_images(images), self.name, self.min_size)


def check_even_grids(images: Tensor, name: str, min_size: int) -> Tensor:
    """The images themselves. Raises UsageError where a pooling would have an odd grid. As
    `check_image_shape`, a leaf for `torch.fx`."""
    height, width = images.shape[2:]
    excess = [(side - min_size) % STRIDE for side in (height, width)]
    if any(excess):
        below = [side - pixels for side, pixels in zip((height, width), excess, strict=True)]
        above = [side + (STRIDE if pixels else 0) for side, pixels in zip(below, excess, strict=True)]
        sides = ", ".join(str(min_size + i * STRIDE) for i in range(3))
        raise UsageError(
            f"{name} takes images whose sides are {sides} and so on, so that every 2x2 pooling has an "
            f"even grid, not {height}x{width}: crop them to {below[0]}x{below[1]}, or mirror their "
            f"borders to {above[0]}x{above[1]}"
        )
    return images


torch.fx.wrap("check_even_grids")


def double_conv(c_in: int, c_out: int, dropout: float | None = None) -> nn.Sequential:
    """Two 3x3 convolutions without padding, each with ReLU."""
    layers = OrderedDict[str, nn.Module](
        conv1=nn.Conv2d(c_in, c_out, 3),
        relu1=nn.ReLU(inplace=True),
        conv2=nn.Conv2d(c_out, c_out, 3),
        relu2=nn.ReLU(inplace=True),
    )
    if dropout is not None:
        layers["dropout"] = nn.Dropout(dropout)
    return nn.Sequential(layers)


def init_weights(module: nn.Module) -> None:
    """Sec. 3: zero-mean Gaussians of standard deviation sqrt(2 / N); biases 0."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        incoming = module.in_channels * module.kernel_size[0] * module.kernel_size[1]
        if isinstance(module, nn.ConvTranspose2d):
            # the kernel is divided among the windows of a stride: one pixel feeds each neuron
            incoming //= module.stride[0] * module.stride[1]
        nn.init.normal_(module.weight, std=(2 / incoming) ** 0.5)
        nn.init.zeros_(module.bias)  # type: ignore[arg-type]


ENTRIES = [
    ModelEntry(
        name="unet",
        builders={"paper": UNet},
        paper="U-Net: Convolutional Networks for Biomedical Image Segmentation",
        year=2015,
        source="arXiv:1505.04597, Fig. 1",
        input=(1, 572, 572),
        headline="IoU 92.03 % on PhC-U373, 77.56 % on DIC-HeLa, ISBI cell tracking challenge 2015 (Table 2)",
        task="segmentation",
    )
]
