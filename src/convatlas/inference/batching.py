"""Any number of images through a function that takes a limited or a fixed number."""

import torch
from torch import Tensor
from torch.nn.functional import pad

from convatlas.inference.graph import InferFn


def chunked(run: InferFn, max_batch: int) -> InferFn:
    """Run at most `max_batch` images at once."""
    return lambda images: torch.cat([run(chunk) for chunk in torch.split(images, max_batch)])


def fixed_batch(run: InferFn, batch_size: int) -> InferFn:
    """Run exactly `batch_size` images at once: the last batch is padded, and its padding dropped."""

    def padded(chunk: Tensor) -> Tensor:
        missing = batch_size - len(chunk)
        if not missing:
            return run(chunk)
        return run(pad(chunk, (0, 0) * (chunk.dim() - 1) + (0, missing)))[: len(chunk)]

    return chunked(padded, batch_size)
