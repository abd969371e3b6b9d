"""Evaluation within a training: when it is due, and on which ranks."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from convatlas.data.task import EvalSource, Scores
from convatlas.evaluation.predict import predict_rows
from convatlas.runtime.signals import StoppedBySignal
from convatlas.training.context import TrainContext
from convatlas.training.probes.measure import measure_probes
from convatlas.training.run import Run


def is_due(step: int, every: int, last: int) -> bool:
    return step % every == 0 or step == last


def unvalidated_scores(run: Run, step: int, lines: Sequence[Mapping[str, Any]]) -> Mapping[str, float] | None:
    """The training scores at `step`, where a stop in the validation has left no scores of validation in the
    log; else None."""
    if not step or not is_due(step, run.steps_per_validation, run.steps):
        return None
    scores = {line["split"]: line for line in lines if line["step"] == step and "event" not in line}
    return None if "val" in scores else scores["train"]


def validate(ctx: TrainContext, position: Mapping[str, float]) -> Scores:
    """Evaluate on the validation split, measure the run's probes, and log both at `position`.

    Raises StoppedBySignal, and then nothing is logged.
    """
    with ctx.stop.interrupts():
        predictions = evaluate_split(ctx, ctx.val)
        probes = ctx.runtime.ranks.run_on_main(lambda: measure_probes(ctx))
    ctx.unreadable.record(int(position["step"]), "val", predictions.unreadable)
    scores = ctx.task.scores(predictions)
    ctx.log.log(**position, split="val", **scores)
    for probe in probes:
        ctx.log.log(**position, event="probe", **probe)
    return scores


def evaluate_split(ctx: TrainContext, split: EvalSource) -> Any:
    """The predictions on a split, in the form of the task, at the run's fixed batch shape; with several
    ranks, of rank 0's network.

    Raises StoppedBySignal on all ranks where one of several has received a signal.
    """
    ranks = ctx.runtime.ranks
    common_batches = split.num_batches // ranks.world_size

    def stop_together(batch: int) -> None:
        if batch < common_batches:
            (signal,) = ranks.all_reduce_max(ctx.stop.number)
            if signal:
                raise StoppedBySignal(signal, "", agreed=True)

    def logits(images: Tensor) -> Tensor:
        with ctx.runtime.turn():
            return ctx.objective.logits(images)

    ctx.objective.eval()
    ranks.broadcast_buffers(ctx.objective)
    with ctx.runtime.autocast():
        rows = predict_rows(
            lambda batch: ctx.task.predict(logits, batch, split.preprocessing, ctx.runtime.device),
            split,
            ctx.workers,
            ranks,
            stop_together if ranks.world_size > 1 else None,
        )
    return ctx.task.predictions(rows, split.split)
