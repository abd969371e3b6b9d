"""Gradients kept within bounds, as records called with the parameters before a step."""

from collections.abc import Iterable

import torch
from torch import Tensor

from convatlas.storage.records import Record


class ClipNorm(Record, frozen=True, tag=True, kw_only=True):
    """All gradients together scaled down to a Euclidean norm of at most `norm` (arXiv:1211.5063, Algorithm 1;
    torch divides by 1e-6 more than the norm)."""

    norm: float

    def __call__(self, parameters: Iterable[Tensor]) -> None:
        torch.nn.utils.clip_grad_norm_(parameters, self.norm)


class ClipValue(Record, frozen=True, tag=True, kw_only=True):
    """Every component of a gradient brought into [-value, value]."""

    value: float

    def __call__(self, parameters: Iterable[Tensor]) -> None:
        torch.nn.utils.clip_grad_value_(parameters, self.value)


Clipping = ClipNorm | ClipValue
