"""What every network of the atlas has in common."""

import functools
import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

from convatlas.errors import UsageError
from convatlas.storage.records import Record

Argument = bool | int | float | str | tuple[int, int] | None
Size = int | tuple[int, int] | None


class Network(nn.Module):
    """images (n, in_chans, h, w), standardised -> logits (n, num_classes), in train and in eval mode.

    Where a network's layers simply follow one another, its children in order are the network. The last child is the classifier.
    """

    architecture: "Architecture | None" = None  # set by whoever builds it by name
    heads: Mapping[str, str] = {}  # auxiliary heads, and the layer whose output each reads

    def __init__(self, in_chans: int, smallest: int = 1, layer: str = "", size: tuple[int, int] | None = None):
        """`smallest`: the side of the smallest image it takes, which `layer` needs; `size`: the only size, where there is only one."""
        super().__init__()
        self.in_chans, self.smallest, self.layer, self.size = in_chans, smallest, layer, size

    def forward(self, images: Tensor) -> Tensor:
        self.check(images)
        for name, layer in self._modules.items():
            if name not in self.heads:
                images = layer(images)  # type: ignore[misc]
        return images

    def training_outputs(self, images: Tensor) -> dict[str, Tensor]:
        """The outputs that an objective trains on: `logits`, and those of auxiliary heads by name where there are any."""
        if not self.heads:
            return {"logits": self(images)}
        self.check(images)
        outputs: dict[str, Tensor] = {}
        for name, layer in self._modules.items():
            if name not in self.heads:
                images = layer(images)  # type: ignore[misc]
            outputs |= {head: self._modules[head](images) for head, after in self.heads.items() if after == name}  # type: ignore[misc]
        return {"logits": images} | outputs

    @property
    def classifier(self) -> str:
        """The path of the layer that gives the logits; what goes into it is the penultimate vector."""
        return list(self._modules)[-1]

    def check(self, images: Tensor) -> None:
        """Raise UsageError for images that this network cannot take, saying which it can."""
        name = self.architecture.name if self.architecture else type(self).__name__
        if images.dim() != 4:
            raise UsageError(
                f"{name} takes images (n, {self.in_chans}, height, width), not a tensor of shape {tuple(images.shape)}: add what is missing"
            )
        channels, height, width = images.shape[1:]
        if channels != self.in_chans:
            raise UsageError(
                f"{name} was built for images of {self.in_chans} channels, not {channels}: convert them, "
                f"or build it with in_chans={channels}"
            )
        if self.size is not None and (height, width) != self.size:
            raise UsageError(
                f"{name} was built for images of {self.size[0]}x{self.size[1]}, not {height}x{width}: resize them, "
                f"or build it with image_size=({height}, {width})"
            )
        if height < self.smallest or width < self.smallest:
            raise too_small(name, (height, width), self.smallest, self.layer)


def too_small(name: str, found: tuple[int, int], smallest: int, layer: str) -> UsageError:
    return UsageError(
        f"{name} needs images of at least {smallest}x{smallest}, so that {layer} has a grid to work on, "
        f"not {found[0]}x{found[1]}: enlarge them"
    )


class Architecture(Record, frozen=True):
    """A network with every argument spelled out: what a run and a saved classifier remember of it."""

    name: str
    edition: str
    arguments: dict[str, Argument]


@dataclass(frozen=True, kw_only=True)
class ModelEntry:
    """A name of the atlas: what it builds, where it was published, and the shape it was published for."""

    name: str
    builds: Mapping[str, Callable[..., Network]]  # by edition; the paper's first
    paper: str
    year: int
    source: str
    input: tuple[int, int, int]  # channels, height, width
    headline: str  # the paper's own error, with its protocol
    defaults: Mapping[str, Argument] = field(default_factory=dict)  # where they are not those of what is built
    task: str = "classification"  # or "segmentation"

    @property
    def editions(self) -> tuple[str, ...]:
        return tuple(self.builds)

    def arguments(self, edition: str = "paper") -> dict[str, Argument]:
        """The keyword arguments that a user may give, with the edition's values."""
        build = self.builds[edition]
        fixed = build.keywords if isinstance(build, functools.partial) else {}
        found = {name: p.default for name, p in inspect.signature(build).parameters.items() if name not in fixed}
        return found | dict(self.defaults)


def scaled(channels: int, width: float, multiple: int = 1) -> int:
    """A channel count at another width: the nearest multiple, at least one."""
    return multiple * max(1, math.floor(channels * width / multiple + 0.5))


def pair(size: Size, default: tuple[int, int]) -> tuple[int, int]:
    """`image_size` as (height, width). Raises UsageError for anything else."""
    sides = default if size is None else (size, size) if isinstance(size, int) else size
    if not isinstance(sides, tuple | list) or len(sides) != 2 or not all(isinstance(side, int) and side > 0 for side in sides):
        raise UsageError(f"image_size should be a side or (height, width) in pixels, not {size!r}")
    return sides[0], sides[1]


def grid(side: int, windows: Iterable[tuple[int, int, int, bool]]) -> int:
    """The side of the map that windows, each (kernel, stride, padding, ceil), leave of an image's side; 0 where one does not fit."""
    for kernel, stride, padding, ceil in windows:
        span = side + 2 * padding - kernel
        found = (-(-span // stride) if ceil else span // stride) + 1
        if ceil and (found - 1) * stride >= side + padding:  # the last window would begin beyond the border
            found -= 1
        if found < 1:
            return 0
        side = found
    return side
