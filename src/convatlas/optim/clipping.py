"""Gradient clipping, as records that are called with the parameters before a step."""

from collections.abc import Iterable

import torch
from torch import Tensor

from convatlas.storage.records import Record


class ClipNorm(Record, frozen=True, tag=True, kw_only=True):
    """Scale all gradients together down to a Euclidean norm of at most `norm` (arXiv:1211.5063, Algorithm 1;
    torch divides by the norm plus 1e-6)."""

    norm: float

    def __call__(self, parameters: Iterable[Tensor]) -> None:
        torch.nn.utils.clip_grad_norm_(parameters, self.norm)


class ClipValue(Record, frozen=True, tag=True, kw_only=True):
    """Clamp every component of a gradient to [-value, value]."""

    value: float

    def __call__(self, parameters: Iterable[Tensor]) -> None:
        torch.nn.utils.clip_grad_value_(parameters, self.value)


Clipping = ClipNorm | ClipValue
