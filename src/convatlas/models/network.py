"""The base class of the networks, `Network`, and their records: `ModelEntry` and `Architecture`."""

import functools
import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from convatlas.errors import UsageError
from convatlas.formatting import describe_edits
from convatlas.models.edits.kinds import Edit
from convatlas.storage.records import Record

Argument = bool | int | float | str | tuple[int, int] | None
ImageSize = int | tuple[int, int] | None
"""The argument `image_size`: a side, (height, width) in pixels, or None for the paper's"""


class Network(nn.Module):
    """images (n, in_chans, h, w), normalised -> logits (n, num_classes), in train and in eval mode.

    Where a network's layers simply follow one another, its children in order are the network. The last child
    is the classifier.
    """

    architecture: "Architecture | None" = None  # set by `build`, as is the shape of the images
    input_shape: tuple[int, int, int] | None = None  # channels, height, width
    init_layer: Callable[[nn.Module], None] | None = None  # the paper's, of a layer; None: torch's
    heads: Mapping[str, str] = {}  # auxiliary heads: name -> the layer whose output it takes
    # of networks that label pixels: the pixels on every side that the logits lack, and the coarsest grid
    margin: int = 0
    stride: int = 1

    def __init__(
        self,
        in_chans: int,
        min_size: int = 1,
        min_size_layer: str = "",
        fixed_size: tuple[int, int] | None = None,
    ):
        """`min_size` is the side of the smallest image, which `min_size_layer` needs; `fixed_size` (height,
        width) is the only size of images, for networks that take only one."""
        super().__init__()
        self.in_chans = in_chans
        self.min_size = min_size
        self.min_size_layer = min_size_layer
        self.fixed_size = fixed_size

    def forward(self, images: Tensor) -> Tensor:
        images = self.check_images(images)
        for name, layer in self._modules.items():
            if name not in self.heads:
                images = layer(images)  # type: ignore[misc]
        return images

    def training_outputs(self, images: Tensor) -> dict[str, Tensor]:
        """The outputs that an objective trains on: `logits`, and the outputs of auxiliary heads by name."""
        if not self.heads:
            return {"logits": self(images)}
        images = self.check_images(images)
        outputs: dict[str, Tensor] = {}
        for name, layer in self._modules.items():
            if name not in self.heads:
                images = layer(images)  # type: ignore[misc]
            for head, source in self.heads.items():
                if source == name:
                    outputs[head] = self._modules[head](images)  # type: ignore[misc]
        return {"logits": images} | outputs

    def initialize(self, init_layer: Callable[[nn.Module], None]) -> None:
        """Give every layer the paper's initialisation, and keep it for those that an edit adds."""
        self.init_layer = init_layer
        self.apply(init_layer)

    @property
    def classifier(self) -> str:
        """The path of the layer that gives the logits. Its input is the penultimate vector."""
        return list(self._modules)[-1]

    @property
    def name(self) -> str:
        """The name of the atlas; that of the class for a network that `build` did not make."""
        return self.architecture.name if self.architecture else type(self).__name__

    def check_images(self, images: Tensor) -> Tensor:
        """The images themselves. Raises UsageError for images that this network cannot take; the message says
        which it can."""
        return check_image_shape(
            images, self.name, self.in_chans, self.min_size, self.min_size_layer, self.fixed_size
        )


def check_image_shape(
    images: Tensor,
    name: str,
    in_chans: int,
    min_size: int,
    min_size_layer: str,
    fixed_size: tuple[int, int] | None,
) -> Tensor:
    """The images themselves, after `Network.check_images`.

    `torch.fx` does not trace this function but calls it: its conditions are on shapes, which a trace does not
    have. As its result is used, the check also stays in a graph without unused nodes.
    """
    if not isinstance(images, Tensor) or not images.is_floating_point():
        given = images.dtype if isinstance(images, Tensor) else f"a {type(images).__name__}"
        raise UsageError(
            f"{name} takes normalised images as a float tensor (n, {in_chans}, height, width), not {given}"
        )
    if images.dim() != 4:
        raise UsageError(
            f"{name} takes images (n, {in_chans}, height, width), not a tensor of shape "
            f"{tuple(images.shape)}: add the missing dimensions"
        )
    channels, height, width = images.shape[1:]
    if channels != in_chans:
        raise UsageError(
            f"{name} was built for images of {in_chans} channels, not {channels}: convert them, "
            f"or build it with in_chans={channels}"
        )
    if fixed_size is not None and (height, width) != fixed_size:
        raise UsageError(
            f"{name} was built for images of {fixed_size[0]}x{fixed_size[1]}, not "
            f"{height}x{width}: resize them, or build it with image_size=({height}, {width})"
        )
    if height < min_size or width < min_size:
        raise image_too_small(name, (height, width), min_size, min_size_layer)
    return images


torch.fx.wrap("check_image_shape")


def image_too_small(name: str, size: tuple[int, int], min_size: int, layer: str) -> UsageError:
    """The error for images of `size` (height, width) below `min_size` a side, which `layer` needs."""
    return UsageError(
        f"{name} needs images of at least {min_size}x{min_size}, so that {layer} has a grid to work on, "
        f"not {size[0]}x{size[1]}: enlarge them"
    )


class TrainingOutputs(nn.Module):
    """images (n, in_chans, h, w) -> `network.training_outputs(images)`, as the forward of a module.

    A wrapper that a forward must pass through, such as DistributedDataParallel, so sees the auxiliary heads
    in use. The network is trained and saved as `.network`.
    """

    def __init__(self, network: Network):
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return self.network.training_outputs(images)


class Architecture(Record, frozen=True, omit_defaults=True):
    """A network with every argument spelled out, as a run and a saved classifier record it.

    `edits` change it before it is trained; `source_sha256` is that of the file with the factory of a network
    of the user's own. What is empty is not written, so that a network keeps the hash that it had before these
    fields existed.
    """

    name: str
    edition: str
    arguments: dict[str, Argument]
    edits: tuple[Edit, ...] = ()
    source_sha256: str = ""

    @property
    def title(self) -> str:
        """The name, with an edition that is not the paper's, and with the edits."""
        edition = "" if self.edition == "paper" else f", edition {self.edition}"
        return f"{self.name}{edition}{describe_edits(self.edits)}"


@dataclass(frozen=True, kw_only=True)
class ModelEntry:
    """A name of the atlas: its builders, where it was published, and the shape it was published for."""

    name: str
    builders: Mapping[str, Callable[..., Network]]  # by edition; the paper's first
    paper: str
    year: int
    source: str
    input: tuple[int, int, int]  # channels, height, width
    headline: str  # the paper's own error, with its protocol
    defaults: Mapping[str, Argument] = field(default_factory=dict)  # where they differ from the builder's
    task: str = "classification"  # or "segmentation"
    is_imported: bool = False  # a network of the user's own, whose images have the data's size

    @property
    def editions(self) -> tuple[str, ...]:
        return tuple(self.builders)

    def default_arguments(self, edition: str = "paper") -> dict[str, Argument]:
        """The keyword arguments that a user may give, with the edition's values."""
        builder = self.builders[edition]
        bound = builder.keywords if isinstance(builder, functools.partial) else {}
        parameters = inspect.signature(builder).parameters
        arguments = {name: parameter.default for name, parameter in parameters.items() if name not in bound}
        return arguments | dict(self.defaults)


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; afterwards every module has its earlier mode."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def scale_channels(channels: int, width: float, multiple: int = 1) -> int:
    """A channel count at another width: the nearest multiple of `multiple`, at least one multiple."""
    return multiple * max(1, math.floor(channels * width / multiple + 0.5))


def height_and_width(image_size: ImageSize, default: tuple[int, int]) -> tuple[int, int]:
    """`image_size` as (height, width). Raises UsageError for anything else."""
    if image_size is None:
        sides = default
    else:
        sides = (image_size, image_size) if isinstance(image_size, int) else image_size
    is_pair = isinstance(sides, tuple | list) and len(sides) == 2
    if not is_pair or not all(isinstance(side, int) and side > 0 for side in sides):
        raise UsageError(f"image_size should be a side or (height, width) in pixels, not {image_size!r}")
    return sides[0], sides[1]


def output_side(side: int, windows: Iterable[tuple[int, int, int, bool]]) -> int:
    """The side of the map that an image of side `side` gives after windows that follow one another.

    A window is (kernel, stride, padding, ceil), of a convolution or a pooling. The result is 0 where one does
    not fit.
    """
    for kernel, stride, padding, ceil in windows:
        span = side + 2 * padding - kernel
        positions = (-(-span // stride) if ceil else span // stride) + 1
        if ceil and (positions - 1) * stride >= side + padding:  # the last window would be outside
            positions -= 1
        if positions < 1:
            return 0
        side = positions
    return side
