"""The form that a network of the atlas has in another library."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

RenameFn = Callable[[str, nn.Module], str]
"""(key in the atlas, the network) -> the other library's key for the same tensor"""

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))  # pixels between -1 and 1, as TensorFlow's networks take them


@dataclass(frozen=True)
class KeyMapping:
    """The names of a network's tensors in another library, and the preprocessing of its weights there.

    `editions` are those that compute the same as the other library with the same weights. Names and shapes
    may fit another edition too, but loading the weights into it would silently change the outputs. `mean_std`
    are the mean and the standard deviation, per channel, of the normalisation; `resize_size` is the length to
    which the shorter side of an image is resized before its centre of `input_size` pixels a side is cropped.
    `base_prefix` begins all names but the classifier's, and is absent where the network was saved without it.
    """

    rename: RenameFn
    editions: tuple[str, ...]
    mean_std: tuple[tuple[float, ...], tuple[float, ...]] = IMAGENET
    input_size: int = 224
    resize_size: int = 256
    base_prefix: str = ""
