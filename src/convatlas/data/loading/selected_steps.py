"""Some of the steps of an evaluation: those that are missing, or a rank's share of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import torch

T_co = TypeVar("T_co", covariant=True)


class Batches(Protocol[T_co]):
    """The batches of the steps from 0 on."""

    def __getitem__(self, step: int) -> T_co: ...


@dataclass(frozen=True)
class SelectedSteps(torch.utils.data.Dataset[T_co], Generic[T_co]):
    """The batches of `batches` at `steps`, in that order."""

    batches: Batches[T_co]
    steps: Sequence[int]

    def __getitem__(self, number: int) -> T_co:
        return self.batches[self.steps[number]]
