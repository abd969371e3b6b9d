"""Training, from a run to a classifier. Everything a step does is a function of (run, step): nothing hangs on what ran before."""

from contextlib import closing
from itertools import chain

import torch

from convatlas.data.loading.eval_batches import Fixed
from convatlas.data.loading.loader import batches
from convatlas.data.loading.train_batches import Training
from convatlas.data.transforms import counter_rng
from convatlas.errors import UserError
from convatlas.evaluation.predict import Answers, answers
from convatlas.evaluation.results import scores
from convatlas.optim.optimizers import set_lr
from convatlas.runtime.runtime import Runtime
from convatlas.runtime.signals import Stopped, StopRequest
from convatlas.training.objective import Objective
from convatlas.training.progress import Display
from convatlas.training.run import Run
from convatlas.training.run_folder import RunFolder, State
from convatlas.training.step import gradients
from convatlas.training.unreadable import UnreadImages


def fit(
    run: Run,
    objective: Objective,
    data: Training,
    validation: Fixed,
    runtime: Runtime,
    folder: RunFolder,
    unread: UnreadImages,
    display: Display,
    stop: StopRequest,
    workers: int = 0,
) -> None:
    """Train `objective` to the run's last step, continuing from the folder's last good checkpoint.

    Raises Stopped when a signal came (saved), UserError when the loss is not finite (saved, the step named).
    """
    optimizer, recipe = run.recipe.optimizer.build(objective.model), run.recipe
    ranks, state = runtime.ranks, folder.restore(objective, optimizer)
    display.start(state.step, folder)
    function = runtime.prepared(objective, display.say)
    state.tally = state.tally.to(runtime.device)
    stream = batches(data, state.step, run.steps, workers, pin=runtime.device.type == "cuda")
    with closing(stream), display.clock() as clock:
        for step, batch in clock.waiting(runtime.ahead(stream)):
            objective.train()
            objective.remember()
            runtime.seed(counter_rng.step_seed(run.seed, step, ranks.rank))
            set_lr(optimizer, lr := recipe.rate(step / run.steps, state.watch))
            loss, logits = gradients(function, data, batch, step, recipe.micro_batch, clock.passed)
            lost, unreadable, stopping = ranks.any(runtime.device.type == "cpu" and not loss.isfinite(), len(batch.unread), stop.number)
            if lost:
                _give_up(state, objective, optimizer, folder)
            runtime.update(optimizer, recipe.clip)
            if recipe.constraint is not None:
                recipe.constraint(objective.model)
            objective.follow()
            state.count(loss, logits, batch.targets)
            if unreadable:
                unread.note(state.step, "train", chain(*ranks.gather(batch.unread)))
            here = {"step": state.step, "epoch": state.step / run.steps_per_epoch}
            validating, saving = due(state.step, run.steps_per_epoch, run.steps), due(state.step, run.save_every, run.steps)
            if validating or due(state.step, run.log_every, run.steps):
                line = state.averages(ranks) | {"lr": lr}
                folder.log(**here, split="train", **line)
                folder.log_timing(step=state.step, **display.progress(state.step, line, clock))
            if validating:
                with clock.aside():
                    found = ask(objective, validation, runtime, workers)
                unread.note(state.step, "val", found.unread)
                score = scores(found.logits, found.labels)
                folder.log(**here, split="val", **score)
                if recipe.plateau is not None:
                    state.watch = recipe.plateau.next(state.watch, 100 - score["top1"])
                display.epoch(folder)
            if saving or stopping:
                folder.save(state, objective, optimizer, here if saving else None)
            if stopping:
                folder.settle()
                raise Stopped(stopping, f"stopped and saved at step {state.step} of {run.steps}")


def due(step: int, every: int, last: int) -> bool:
    return step % every == 0 or step == last


def ask(objective: Objective, split: Fixed, runtime: Runtime, workers: int) -> Answers:
    """What the network says of a split, at the run's fixed batch shape; of several ranks, rank 0's network."""
    objective.eval()
    runtime.ranks.align(objective)
    with runtime.autocast():
        return answers(objective.logits, split, runtime.device, workers, ranks=runtime.ranks)


def _give_up(state: State, objective: Objective, optimizer: torch.optim.Optimizer, folder: RunFolder) -> None:
    objective.take_back()
    folder.save(state, objective, optimizer)
    folder.settle()
    run = folder.stored.run
    raise UserError(
        f"the loss is not finite at step {state.step + 1} (epoch {state.step / run.steps_per_epoch:.2f}): the weights before it are saved "
        f"in {folder.checkpoints}; train anew with a lower rate, for example --set recipe.optimizer.lr={run.recipe.optimizer.lr / 4:g}"
    )
