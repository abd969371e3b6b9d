"""The training loop.

What a step does is a function of (run, step): nothing depends on what ran before.
"""

from collections.abc import Mapping
from contextlib import closing, nullcontext
from itertools import chain

from convatlas.data.loading.loader import iterate_batches
from convatlas.errors import NonFiniteLossError
from convatlas.runtime.signals import StoppedBySignal
from convatlas.training.checkpoint import TrainState
from convatlas.training.context import TrainContext
from convatlas.training.progress import ThroughputMeter
from convatlas.training.step import TrainStep
from convatlas.training.validation import is_due, unvalidated_scores, validate


def fit(ctx: TrainContext) -> None:
    """Train to the run's last step, continuing from the folder's newest whole checkpoint.

    Raises StoppedBySignal when a signal came, NonFiniteLossError; both saved.
    """
    state = ctx.checkpoints.load(ctx.objective, ctx.optimizer)
    state.running_totals = state.running_totals.to(ctx.runtime.device)
    start, lines = state.step, ctx.log.lines()
    ctx.display.start(start, [*ctx.checkpoints.warnings, *ctx.log.warnings], lines, ctx.task)
    try:
        train_scores = ctx.runtime.ranks.run_on_main(lambda: unvalidated_scores(ctx.run, state.step, lines))
        if train_scores is not None:
            _finish_step(ctx, state, train_scores)
        _train(ctx, state)
    except StoppedBySignal as stopped:  # between two steps, or in the first one
        if state.step > start:
            ctx.checkpoints.save_and_wait(state, ctx.objective, ctx.optimizer)
        message = f"stopped and saved at step {state.step} of {ctx.run.steps}"
        raise StoppedBySignal(stopped.number, message, agreed=True) from None
    ctx.checkpoints.wait()
    if ctx.stop:
        raise StoppedBySignal(ctx.stop.number, f"stopped and saved at step {state.step}, the last")


def _train(ctx: TrainContext, state: TrainState) -> None:
    run, recipe, runtime, ranks = ctx.run, ctx.run.recipe, ctx.runtime, ctx.runtime.ranks
    forward_backward = runtime.compiled_forward_backward(ctx.objective, ctx.display.say)
    train_step = TrainStep(ctx.objective, ctx.optimizer, runtime, recipe, ctx.train, forward_backward)
    start = state.step
    batches = iterate_batches(ctx.train, start, run.steps, ctx.workers, runtime.device.type == "cuda")
    meter = ThroughputMeter()
    intervals = run.steps_per_validation, run.log_every
    with closing(batches), ctx.display.live_line():
        for step, batch in meter.timed(ctx.stop.interrupting(runtime.prefetch(batches))):
            lr = recipe.lr_at(step / run.steps, state.plateau)
            train_step.prepare(step, lr)
            with ctx.stop.interrupts() if runtime.compile and step == start else nullcontext():
                loss, logits = train_step.backward(batch, step, ctx.display.on_microbatch)
            # a GPU is not waited for at every step
            non_finite = runtime.device.type == "cpu" and not loss.isfinite()
            diverged, unreadable, signal = ranks.all_reduce_max(
                non_finite, len(batch.unreadable), ctx.stop.number
            )
            if diverged:
                _abort_non_finite(ctx, state)
            train_step.update()
            state.count(loss, ctx.task.correct(logits, batch.targets))
            ctx.display.advance()
            if unreadable:
                ctx.unreadable.record(state.step, "train", chain(*ranks.all_gather(batch.unreadable)))
            train_scores = {}
            if any(is_due(state.step, every, run.steps) for every in intervals):
                train_scores = state.averages(ctx.task.train_score, ranks) | {"lr": lr}
                epoch = state.step / run.steps_per_epoch
                ctx.log.log(step=state.step, epoch=epoch, split="train", **train_scores)
                rates = meter.read(recipe.batch)
                ctx.log.log_timing(step=state.step, **rates)
                ctx.display.update(epoch, train_scores, rates)
            with meter.paused():
                _finish_step(ctx, state, train_scores)
            if signal:
                raise StoppedBySignal(signal, "")


def _finish_step(ctx: TrainContext, state: TrainState, train_scores: Mapping[str, float]) -> None:
    """Validate and save where it is due; a run that was stopped in its validation continues here."""
    run = ctx.run
    position = {"step": state.step, "epoch": state.step / run.steps_per_epoch}
    if is_due(state.step, run.steps_per_validation, run.steps):
        scores = validate(ctx, position)
        if run.recipe.plateau is not None:
            state.plateau = run.recipe.plateau.next_state(state.plateau, 100 - scores[ctx.task.score])
        ctx.display.epoch(position["epoch"], train_scores, scores)
    if is_due(state.step, run.save_every, run.steps):
        ctx.checkpoints.save(state, ctx.objective, ctx.optimizer, position)


def _abort_non_finite(ctx: TrainContext, state: TrainState) -> None:
    ctx.objective.restore_statistics()
    ctx.checkpoints.save_and_wait(state, ctx.objective, ctx.optimizer)
    step, epoch = state.step + 1, state.step / ctx.run.steps_per_epoch
    raise NonFiniteLossError(
        f"the loss is not finite at step {step} (epoch {epoch:.2f}): the weights before it are saved in "
        f"{ctx.folder.checkpoints}; train again with a lower rate, for example --set "
        f"recipe.optimizer.lr={ctx.run.recipe.optimizer.lr / 4:g}"
    )
