"""Whether a run fits into memory, by the plan's arithmetic: said before it starts where that can be known, and when memory has run out."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self

import torch

from convatlas.errors import UsageError, UserError
from convatlas.formatting import format_si
from convatlas.runtime.hardware import available_memory
from convatlas.runtime.runtime import Runtime
from convatlas.training.objective import Objective
from convatlas.training.planning.memory import USABLE, estimate_memory, max_eval_batch, max_micro_batch
from convatlas.training.planning.step_time import num_passes
from convatlas.training.planning.workload import ModelCost, model_cost, workload
from convatlas.training.run import Run

# The device's allocator, the system's, and libraries that ask for memory themselves
_RUN_OUT = ("out of memory", "can't allocate memory", "ALLOC_FAILED", "bad allocation")


@dataclass(frozen=True)
class MemoryGuard:
    """`memory` bytes for one rank of a run, of which `rest` were gone before it began. It takes `share` images a step, `images` at once."""

    network: ModelCost
    memory: int
    reserved: int
    share: int
    images: int
    evaluation_batch: int
    exact: bool  # what autograd keeps is what the analysis saw: a compiler keeps less

    @classmethod
    def of(cls, run: Run, runtime: Runtime) -> Self:
        asked, ranks = workload(run), runtime.ranks
        room, rest = available_memory(runtime.device, ranks.local_world_size)
        share = asked.batch // ranks.world_size
        return cls(
            network=model_cost(run, runtime.precision),
            memory=room,
            reserved=rest,
            share=share,
            images=min(share, asked.micro_batch),
            evaluation_batch=asked.evaluation_batch,
            exact=not runtime.compile,
        )

    def check(self) -> None:
        """Raises UsageError when a pass, or a batch of evaluation, needs more than all the memory, beyond doubt."""
        held = estimate_memory(self.network, self.reserved, self.images, self.share, self.evaluation_batch)
        training = held.training - held.activation_gradients  # the gradients of activations are an estimate
        if self.exact and training > self.memory:
            raise UsageError(f"{self._needs(self.images, training)}; {self._passes()}, or --force to try all the same")
        if held.evaluating > self.memory:
            needs = self._needs(self.evaluation_batch, held.evaluating)
            raise UsageError(f"in evaluation {needs}; {self._batches()}, or --force to try all the same")

    @contextmanager
    def explain_oom(self, objective: Objective) -> Iterator[None]:
        """Raises UserError, with what would fit, in place of what torch raises when memory runs out."""
        try:
            yield
        except (RuntimeError, MemoryError) as error:
            if not isinstance(error, torch.OutOfMemoryError | MemoryError) and not any(text in str(error) for text in _RUN_OUT):
                raise
            if objective.training:
                raise UserError(f"out of memory with {self.images} images at once; {self._passes()}") from error
            raise UserError(f"out of memory in evaluation, in batches of {self.evaluation_batch}; {self._batches()}") from error

    def _needs(self, images: int, size: int) -> str:
        return f"{images} images at once need {format_si(size, 'B')}, and there are {format_si(self.memory, 'B')} for this process"

    def _passes(self) -> str:
        most = max_micro_batch(self.network, self.reserved, USABLE * self.memory)
        parts = num_passes(self.share, _fewer(most, self.images))
        return _advice(most, self.images, f"recipe.micro_batch={num_passes(self.share, parts)} (the batch stays, in {parts} parts)")

    def _batches(self) -> str:
        most = max_eval_batch(self.network, self.reserved, USABLE * self.memory)
        return _advice(most, self.evaluation_batch, f"evaluation_batch={_fewer(most, self.evaluation_batch)}")


def _fewer(most: int, tried: int) -> int:
    """As many as fit, or half of those that should have and did not."""
    return max(1, most if most < tried else tried // 2)


def _advice(most: int, tried: int, setting: str) -> str:
    if most < 1:
        return "by the plan not even one fits: take smaller images, or a narrower network (--set model.arguments.width=0.5)"
    why = f"by the plan {most} fit" if most < tried else f"by the plan {most} should fit, but others use this memory, too"
    return f"{why}: --set {setting}"
