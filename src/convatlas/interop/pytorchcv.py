"""pytorchcv's names for our tensors."""

from collections.abc import Callable

from torch import nn

NAMES: dict[str, Callable[[str, nn.Module], str]] = {}
