"""Training, from a run to a classifier. Everything a step does is a function of (run, step): nothing hangs on what ran before."""

from contextlib import closing
from itertools import chain

import torch

from convatlas.data.loading.eval_batches import EvalBatches
from convatlas.data.loading.loader import iterate_batches
from convatlas.data.loading.train_batches import TrainBatches
from convatlas.data.transforms import counter_rng
from convatlas.errors import UserError
from convatlas.evaluation.predict import Predictions, predict_split
from convatlas.evaluation.results import classification_scores
from convatlas.optim.optimizers import set_lr
from convatlas.runtime.runtime import Runtime
from convatlas.runtime.signals import StoppedBySignal, StopRequest
from convatlas.training.objective import Objective
from convatlas.training.progress import ProgressDisplay
from convatlas.training.run import Run
from convatlas.training.run_folder import RunFolder, TrainState
from convatlas.training.step import accumulate_gradients
from convatlas.training.unreadable import UnreadableImageLog


def fit(
    run: Run,
    objective: Objective,
    data: TrainBatches,
    validation: EvalBatches,
    runtime: Runtime,
    folder: RunFolder,
    unread: UnreadableImageLog,
    display: ProgressDisplay,
    stop: StopRequest,
    workers: int = 0,
) -> None:
    """Train `objective` to the run's last step, continuing from the folder's last good checkpoint.

    Raises Stopped when a signal came (saved), UserError when the loss is not finite (saved, the step named).
    """
    optimizer, recipe = run.recipe.optimizer.build(objective.model), run.recipe
    ranks, state = runtime.ranks, folder.restore(objective, optimizer)
    display.start(state.step, folder)
    function = runtime.compiled_forward_backward(objective, display.say)
    state.running_totals = state.running_totals.to(runtime.device)
    stream = iterate_batches(data, state.step, run.steps, workers, pin=runtime.device.type == "cuda")
    with closing(stream), display.clock() as clock:
        for step, batch in clock.timed(runtime.prefetch(stream)):
            objective.train()
            objective.snapshot_statistics()
            runtime.seed_step(counter_rng.step_seed(run.seed, step, ranks.rank))
            set_lr(optimizer, lr := recipe.rate(step / run.steps, state.plateau))
            loss, logits = accumulate_gradients(function, data, batch, step, recipe.micro_batch, clock.on_microbatch)
            lost, unreadable, stopping = ranks.all_reduce_max(
                runtime.device.type == "cpu" and not loss.isfinite(), len(batch.unreadable), stop.number
            )
            if lost:
                _abort_non_finite(state, objective, optimizer, folder)
            runtime.optimizer_step(optimizer, recipe.clip)
            if recipe.constraint is not None:
                recipe.constraint(objective.model)
            objective.update_ema()
            state.count(loss, logits, batch.targets)
            if unreadable:
                unread.record(state.step, "train", chain(*ranks.all_gather(batch.unreadable)))
            here = {"step": state.step, "epoch": state.step / run.steps_per_epoch}
            validating, saving = is_due(state.step, run.steps_per_epoch, run.steps), is_due(state.step, run.save_every, run.steps)
            if validating or is_due(state.step, run.log_every, run.steps):
                line = state.averages(ranks) | {"lr": lr}
                folder.log(**here, split="train", **line)
                folder.log_timing(step=state.step, **display.progress(state.step, line, clock))
            if validating:
                with clock.paused():
                    found = evaluate_split(objective, validation, runtime, workers)
                unread.record(state.step, "val", found.unreadable)
                score = classification_scores(found.logits, found.labels)
                folder.log(**here, split="val", **score)
                if recipe.plateau is not None:
                    state.plateau = recipe.plateau.next(state.plateau, 100 - score["top1"])
                display.epoch(folder)
            if saving or stopping:
                folder.save(state, objective, optimizer, here if saving else None)
            if stopping:
                folder.wait()
                raise StoppedBySignal(stopping, f"stopped and saved at step {state.step} of {run.steps}")


def is_due(step: int, every: int, last: int) -> bool:
    return step % every == 0 or step == last


def evaluate_split(objective: Objective, split: EvalBatches, runtime: Runtime, workers: int) -> Predictions:
    """What the network says of a split, at the run's fixed batch shape; of several ranks, rank 0's network."""
    objective.eval()
    runtime.ranks.broadcast_buffers(objective)
    with runtime.autocast():
        return predict_split(objective.logits, split, runtime.device, workers, ranks=runtime.ranks)


def _abort_non_finite(state: TrainState, objective: Objective, optimizer: torch.optim.Optimizer, folder: RunFolder) -> None:
    objective.restore_statistics()
    folder.save(state, objective, optimizer)
    folder.wait()
    run = folder.run_file.run
    raise UserError(
        f"the loss is not finite at step {state.step + 1} (epoch {state.step / run.steps_per_epoch:.2f}): the weights before it are saved "
        f"in {folder.checkpoints}; train anew with a lower rate, for example --set recipe.optimizer.lr={run.recipe.optimizer.lr / 4:g}"
    )
