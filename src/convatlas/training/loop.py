"""The training loop.

Everything a step does is a function of (run, step): nothing depends on what ran before.
"""

from contextlib import closing
from itertools import chain

from convatlas.data.loading.eval_batches import EvalBatches
from convatlas.data.loading.loader import iterate_batches
from convatlas.errors import UserError
from convatlas.evaluation.metrics import score_samples
from convatlas.evaluation.predict import predict_split
from convatlas.evaluation.predictions import Predictions
from convatlas.evaluation.results import classification_scores
from convatlas.runtime.signals import StoppedBySignal
from convatlas.training.checkpoint import TrainState
from convatlas.training.context import TrainContext
from convatlas.training.progress import ThroughputMeter
from convatlas.training.step import TrainStep


def fit(ctx: TrainContext) -> None:
    """Train to the run's last step, continuing from the folder's newest whole checkpoint.

    Raises StoppedBySignal when a signal came (saved), UserError when the loss is not finite (saved, the step
    named).
    """
    run, recipe, runtime, ranks = ctx.run, ctx.run.recipe, ctx.runtime, ctx.runtime.ranks
    state = ctx.checkpoints.load(ctx.objective, ctx.optimizer)
    state.running_totals = state.running_totals.to(runtime.device)
    validations = [line for line in ctx.log.lines() if line.get("split") == "val" and "event" not in line]
    best_top1 = max((line["top1"] for line in validations), default=-1.0)
    ctx.display.start(state.step, [*ctx.checkpoints.warnings, *ctx.log.warnings])
    forward_backward = runtime.compiled_forward_backward(ctx.objective, ctx.display.say)
    train_step = TrainStep(ctx.objective, ctx.optimizer, runtime, recipe, ctx.train, forward_backward)
    batches = iterate_batches(
        ctx.train, state.step, run.steps, ctx.workers, pin_memory=runtime.device.type == "cuda"
    )
    meter = ThroughputMeter()
    with closing(batches), ctx.display.live_line():
        for step, batch in meter.timed(runtime.prefetch(batches)):
            lr = recipe.lr_at(step / run.steps, state.plateau)
            train_step.prepare(step, lr)
            loss, logits = train_step.backward(batch, step, ctx.display.on_microbatch)
            non_finite = (
                runtime.device.type == "cpu" and not loss.isfinite()
            )  # a GPU is not waited for at every step
            diverged, unreadable, signal = ranks.all_reduce_max(
                non_finite, len(batch.unreadable), ctx.stop.number
            )
            if diverged:
                _abort_non_finite(ctx, state)
            train_step.update()
            state.count(loss, logits, batch.targets)
            ctx.display.advance()
            if unreadable:
                ctx.unreadable.record(state.step, "train", chain(*ranks.all_gather(batch.unreadable)))
            position = {"step": state.step, "epoch": state.step / run.steps_per_epoch}
            validating = is_due(state.step, run.validate_every, run.steps)
            saving = is_due(state.step, run.save_every, run.steps)
            if validating or is_due(state.step, run.log_every, run.steps):
                train_scores = state.averages(ranks) | {"lr": lr}
                ctx.log.log(**position, split="train", **train_scores)
                rates = meter.read(recipe.batch)
                ctx.log.log_timing(step=state.step, **rates)
                ctx.display.update(position["epoch"], train_scores, rates)
            if validating:
                with meter.paused():
                    predictions = evaluate_split(ctx, ctx.val)
                ctx.unreadable.record(state.step, "val", predictions.unreadable)
                scores = classification_scores(score_samples(predictions.logits, predictions.labels))
                ctx.log.log(**position, split="val", **scores)
                if recipe.plateau is not None:
                    state.plateau = recipe.plateau.next_state(state.plateau, 100 - scores["top1"])
                ctx.display.epoch(position["epoch"], train_scores, scores, best=scores["top1"] >= best_top1)
                best_top1 = max(best_top1, scores["top1"])
            if saving or signal:
                ctx.checkpoints.save(state, ctx.objective, ctx.optimizer, position if saving else None)
            if signal:
                ctx.checkpoints.wait()
                raise StoppedBySignal(signal, f"stopped and saved at step {state.step} of {run.steps}")


def is_due(step: int, every: int, last: int) -> bool:
    return step % every == 0 or step == last


def evaluate_split(ctx: TrainContext, split: EvalBatches) -> Predictions:
    """The predictions on a split, at the run's fixed batch shape; with several ranks, of rank 0's network."""
    ctx.objective.eval()
    ctx.runtime.ranks.broadcast_buffers(ctx.objective)
    with ctx.runtime.autocast():
        return predict_split(
            ctx.objective.logits, split, ctx.runtime.device, ctx.workers, ranks=ctx.runtime.ranks
        )


def _abort_non_finite(ctx: TrainContext, state: TrainState) -> None:
    ctx.objective.restore_statistics()
    ctx.checkpoints.save(state, ctx.objective, ctx.optimizer)
    ctx.checkpoints.wait()
    lower = ctx.run.recipe.optimizer.lr / 4
    raise UserError(
        f"the loss is not finite at step {state.step + 1} (epoch "
        f"{state.step / ctx.run.steps_per_epoch:.2f}): the weights before "
        f"it are saved in {ctx.folder.checkpoints}; train again with a lower rate, for example --set "
        f"recipe.optimizer.lr={lower:g}"
    )
