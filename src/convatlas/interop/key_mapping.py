"""What we know of another library's form of one of our networks."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

RenameFn = Callable[[str, nn.Module], str]
"""(our key, the network) -> the other library's key for the same tensor"""

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))  # pixels between -1 and 1, as TensorFlow's networks take them


@dataclass(frozen=True)
class KeyMapping:
    """`editions` are those of ours that compute what the other library does with the same weights; where names and shapes would fit
    another edition too, loading it would silently change the outputs. `statistics` are the mean and standard deviation by which its
    weights were trained, `shorter` the side to which images were resized before their centre was cropped."""

    names: RenameFn
    editions: tuple[str, ...]
    statistics: tuple[tuple[float, ...], tuple[float, ...]] = IMAGENET
    size: int = 224
    shorter: int = 256
