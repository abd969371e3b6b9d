"""Whether a run fits into memory, by the plan: refused before it starts, or explained after."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self

import torch

from convatlas.errors import UsageError, UserError
from convatlas.formatting import format_si
from convatlas.models import Network
from convatlas.runtime.hardware import available_memory
from convatlas.runtime.runtime import Runtime
from convatlas.training.objective import Objective
from convatlas.training.planning.memory import USABLE, estimate_memory, max_eval_batch, max_micro_batch
from convatlas.training.planning.step_time import num_passes
from convatlas.training.planning.workload import ModelCost, model_cost, workload
from convatlas.training.run import Run

# Messages of the device's allocator, the system's, and libraries that allocate memory themselves
_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "ALLOC_FAILED", "bad allocation")


@dataclass(frozen=True)
class MemoryGuard:
    """One rank's memory in bytes, of which `reserved` were in use before it began, and what the run needs of
    it.

    The rank takes `share` images a step, `micro_batch` of them at once. `exact`: what autograd saves is what
    the analysis counted; a compiler saves less.
    """

    cost: ModelCost
    memory: int
    reserved: int
    share: int
    micro_batch: int
    evaluation_batch: int
    exact: bool

    @classmethod
    def of(cls, run: Run, runtime: Runtime, network: Network | None = None) -> Self:
        """`network`: the run's network on meta tensors, where there is one."""
        work = workload(run)
        ranks = runtime.ranks
        memory, reserved = available_memory(runtime.device, ranks.local_world_size)
        share = work.batch // ranks.world_size
        return cls(
            cost=model_cost(run, runtime.precision, network),
            memory=memory,
            reserved=reserved,
            share=share,
            micro_batch=min(share, work.micro_batch),
            evaluation_batch=work.evaluation_batch,
            exact=not runtime.compile,
        )

    def check(self) -> None:
        """Raises UsageError if a pass or a batch of evaluation certainly exceeds all memory."""
        estimate = estimate_memory(
            self.cost, self.reserved, self.micro_batch, self.share, self.evaluation_batch
        )
        training = estimate.training - estimate.activation_gradients  # which are only estimated
        if self.exact and training > self.memory:
            needs = self._needs(self.micro_batch, training)
            raise UsageError(f"{needs}; {self._smaller_micro_batch()}, or --force to try all the same")
        if estimate.evaluating > self.memory:
            needs = self._needs(self.evaluation_batch, estimate.evaluating)
            raise UsageError(
                f"in evaluation {needs}; {self._smaller_eval_batch()}, or --force to try all the same"
            )

    @contextmanager
    def explain_oom(self, objective: Objective) -> Iterator[None]:
        """Raises UserError, with what would fit, in place of what torch raises when memory runs out."""
        try:
            yield
        except (RuntimeError, MemoryError) as error:
            by_type = isinstance(error, torch.OutOfMemoryError | MemoryError)
            if not by_type and not any(text in str(error) for text in _OUT_OF_MEMORY):
                raise
            if objective.training:
                advice = self._smaller_micro_batch()
                raise UserError(f"out of memory with {self.micro_batch} images at once; {advice}") from error
            advice = self._smaller_eval_batch()
            raise UserError(
                f"out of memory in evaluation, in batches of {self.evaluation_batch}; {advice}"
            ) from error

    def _needs(self, images: int, size: int) -> str:
        available = format_si(self.memory, "B")
        return (
            f"{images} images at once need {format_si(size, 'B')}, and {available} are available to this "
            "process"
        )

    def _smaller_micro_batch(self) -> str:
        fitting = max_micro_batch(self.cost, self.reserved, USABLE * self.memory)
        parts = num_passes(self.share, _smaller(fitting, self.micro_batch))
        setting = f"recipe.micro_batch={num_passes(self.share, parts)} (the batch stays, in {parts} parts)"
        return _advice(fitting, self.micro_batch, setting)

    def _smaller_eval_batch(self) -> str:
        fitting = max_eval_batch(self.cost, self.reserved, USABLE * self.memory)
        setting = f"evaluation_batch={_smaller(fitting, self.evaluation_batch)}"
        return _advice(fitting, self.evaluation_batch, setting)


def _smaller(fitting: int, tried: int) -> int:
    """As many as fit, or half of those that should have and did not."""
    return max(1, fitting if fitting < tried else tried // 2)


def _advice(fitting: int, tried: int, setting: str) -> str:
    if fitting < 1:
        return (
            "by the plan not even one fits: take smaller images, or a narrower network (--set "
            "model.arguments.width=0.5)"
        )
    if fitting < tried:
        return f"by the plan {fitting} fit: --set {setting}"
    return f"by the plan {fitting} should fit, but others use this memory too: --set {setting}"
