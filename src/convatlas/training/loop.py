"""Training, from a run to a classifier. Everything a step does is a function of (run, step): nothing hangs on what ran before."""

from contextlib import closing

import torch

from convatlas.data import randomness
from convatlas.data.loader import Fixed, Training, batches
from convatlas.errors import UserError
from convatlas.evaluation.protocol import logits_of, scores
from convatlas.optim.optimizers import set_lr
from convatlas.runtime.device import Runtime
from convatlas.runtime.stopping import Stopped, StopRequest
from convatlas.storage.sealed import fingerprint
from convatlas.training.display import Display
from convatlas.training.folder import RunFolder, State
from convatlas.training.objective import Objective
from convatlas.training.run import Run


def fit(
    run: Run,
    objective: Objective,
    data: Training,
    validation: Fixed,
    runtime: Runtime,
    folder: RunFolder,
    display: Display,
    stop: StopRequest,
    workers: int = 0,
) -> None:
    """Train `objective` to the run's last step, continuing from the folder's last good checkpoint.

    Raises Stopped when a signal came (saved), UserError when the loss is not finite (saved, the step named).
    """
    optimizer, recipe = run.recipe.optimizer.build(objective), run.recipe
    state = folder.restore(objective.model, optimizer)
    display.start(state.step, folder)
    step_function = runtime.compiled(objective)
    state.tally = state.tally.to(runtime.device)
    stream = batches(data, state.step, run.steps, workers, pin=runtime.device.type == "cuda")
    with closing(stream), display.clock() as clock:
        for step, batch in clock.waiting(stream):
            objective.train()
            objective.remember()
            runtime.seed(randomness.step_seed(run.seed, step))
            set_lr(optimizer, lr := recipe.optimizer.lr * recipe.schedule(step / run.steps))
            images, targets = (t.to(runtime.device, non_blocking=True) for t in batch)
            with runtime.autocast():
                loss, logits = step_function(images, targets)
            if runtime.device.type == "cpu" and not loss.isfinite():
                _give_up(state, objective, optimizer, folder)
            runtime.update(loss, optimizer, recipe.clip_norm)
            state.step = step + 1
            right = (logits.argmax(1) == targets).sum()
            state.tally += torch.stack([loss.detach() * len(targets), right, torch.tensor(len(targets), device=loss.device)])
            validating = at(state.step, run.steps_per_epoch, run.steps)
            log = validating or at(state.step, run.log_every, run.steps)
            save = at(state.step, run.save_every, run.steps)
            if (log or save or stop) and not state.tally.isfinite().all():
                raise UserError(
                    f"the loss stopped being finite before step {state.step}: continue from the last checkpoint with a lower rate"
                )
            epoch = state.step / run.steps_per_epoch
            if log:
                total, hits, count = state.tally.tolist()
                line = {"loss": total / count, "top1": 100 * hits / count, "lr": lr}
                folder.log(step=state.step, epoch=epoch, split="train", **line)
                folder.log_timing(step=state.step, **display.progress(state.step, line, clock))
                state.tally.zero_()
            if validating:
                folder.log(step=state.step, epoch=epoch, split="val", **validate(objective, validation, runtime))
                display.epoch(folder)
            if save:
                folder.log(step=state.step, epoch=epoch, split="save", weights=fingerprint(objective.model.state_dict()))
            if save or stop:
                folder.save(state, objective.model, optimizer)
            if stop:
                raise Stopped(stop.number, f"stopped and saved at step {state.step} of {run.steps}")


def at(step: int, every: int, last: int) -> bool:
    return step % every == 0 or step == last


def validate(objective: Objective, split: Fixed, runtime: Runtime) -> dict[str, float | int | None]:
    """top1, top5, loss and n of a split, at the run's fixed batch shape."""
    objective.eval()
    with runtime.autocast():
        return scores(logits_of(objective.logits, split, runtime.device), split.split.labels)


def _give_up(state: State, objective: Objective, optimizer: torch.optim.Optimizer, folder: RunFolder) -> None:
    objective.take_back()
    folder.save(state, objective.model, optimizer)
    run = folder.stored.run
    raise UserError(
        f"the loss is not finite at step {state.step + 1} (epoch {state.step / run.steps_per_epoch:.2f}): the weights before it are saved "
        f"in {folder.checkpoints}; train anew with a lower rate, for example --set recipe.optimizer.lr={run.recipe.optimizer.lr / 4:g}"
    )
