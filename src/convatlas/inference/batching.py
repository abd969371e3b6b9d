"""Any number of images by something that takes some."""

import torch
from torch import Tensor
from torch.nn.functional import pad

from convatlas.inference.graph import InferFn


def chunked(run: InferFn, most: int) -> InferFn:
    """At most so many at a time."""
    return lambda images: torch.cat([run(piece) for piece in torch.split(images, most)])


def fixed_batch(run: InferFn, size: int) -> InferFn:
    """Exactly so many at a time: the last ones are filled up with zeros, whose answers are dropped."""

    def filled(piece: Tensor) -> Tensor:
        missing = size - len(piece)
        return run(pad(piece, (0, 0) * (piece.dim() - 1) + (0, missing)))[: len(piece)] if missing else run(piece)

    return chunked(filled, size)
