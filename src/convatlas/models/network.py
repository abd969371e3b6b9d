"""What every network of the atlas has in common."""

import functools
import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from convatlas.storage.records import Record

Argument = bool | int | float | str | tuple[int, int] | None


class Network(nn.Module):
    """images (n, in_chans, h, w), standardised -> logits (n, num_classes), in train and in eval mode."""

    def training_outputs(self, images: Tensor) -> dict[str, Tensor]:
        """The outputs that an objective trains on: `logits`, and those of auxiliary heads by name where there are any."""
        return {"logits": self(images)}


class Architecture(Record, frozen=True):
    """A network with every argument spelled out: what a run and a saved classifier remember of it."""

    name: str
    edition: str
    arguments: dict[str, Argument]


@dataclass(frozen=True)
class Entry:
    """A name of the atlas: what it builds, where it was published, and the shape it was published for."""

    name: str
    build: Callable[..., Network]
    paper: str
    year: int
    source: str
    recipe: str  # its paper's recipe
    input: tuple[int, int, int]  # channels, height, width
    editions: tuple[str, ...] = ("paper",)

    @property
    def arguments(self) -> dict[str, Argument]:
        """The keyword arguments that a user may give, with the paper's values."""
        fixed = self.build.keywords if isinstance(self.build, functools.partial) else {}
        return {name: p.default for name, p in inspect.signature(self.build).parameters.items() if name not in fixed}


def scaled(channels: int, width: float) -> int:
    """A channel count at another width, at least 1."""
    return max(1, math.floor(channels * width + 0.5))
