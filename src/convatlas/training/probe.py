"""What a plan takes from the machine at hand: how long some passes of the run and some batches of its data take. With the plan, its
document."""

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from convatlas.data import Dataset, randomness
from convatlas.data.dataset import Split, Stack
from convatlas.data.loader import Batch, Training, batches, workers_for
from convatlas.errors import UsageError, UserError, printable
from convatlas.optim.optimizers import set_lr
from convatlas.runtime import rates as devices
from convatlas.runtime.compilation import worth_compiling
from convatlas.runtime.device import Precision, Runtime, best_precision, pick_device
from convatlas.runtime.meeting import join
from convatlas.runtime.memory import keep_freed_memory
from convatlas.runtime.passes import Pass
from convatlas.runtime.ranks import Ranks
from convatlas.runtime.rates import Rates
from convatlas.training import plan
from convatlas.training import run as runs
from convatlas.training.complete import complete
from convatlas.training.figures import network, untrained, work
from convatlas.training.objective import Objective
from convatlas.training.run import Run
from convatlas.training.step import gradients

LONGEST = 1.5  # seconds: of one measured pass
SECONDS = 2.5  # for the passes of the largest size, for the batches that are loaded
MOST_PASSES = 40
MEETING = statistics.fmean  # where ranks wait for each other, one time in ten is several times the median, and counts


def read(path: Path) -> Run:
    """The run of a `run.json`, or of the folder that holds one. Raises UsageError for what is neither."""
    file = path / "run.json" if path.is_dir() else path
    try:
        return runs.read(file.read_bytes(), str(file)).run
    except OSError as error:
        raise UsageError(f"cannot read {printable(file)} ({error.strerror}): expected a run.json, or a run's folder") from None


def opened(run: Run, device: torch.device) -> tuple[Run, Dataset | None, str]:
    """The complete run and its data; a complete run whose data cannot be opened here is planned without it, and why is said.

    Raises as `complete` for a run that is not complete.
    """
    try:
        whole, dataset = complete(run, device)
    except UserError as error:
        if run.data.content is None:
            raise
        precision = best_precision(device) if run.precision == "auto" else run.precision
        return run.but(precision=precision), None, f"the data is not read: {error}"
    return whole, dataset, ""


@dataclass(frozen=True)
class Measured:
    """How long passes of so many images took here, and what follows for others."""

    pace: plan.Pace
    images: int
    seconds: float


def passes(run: Run, runtime: Runtime, figures: plan.Network, rates: Rates) -> Measured:
    """Time passes of the run with random images: of two, then more, up to the micro-batch or what fits, or as many as take a second.

    Ranks do them together, and the slowest counts; then they exchange the gradients as well.
    """
    recipe, shape, device, ranks = run.recipe, run.content.preprocessing.shape, runtime.device, runtime.ranks
    torch.manual_seed(run.seed)
    objective = untrained(run)
    if recipe.average is not None:
        objective.average = recipe.average.build(objective.model).requires_grad_(False)
    runtime.place(objective)
    optimizer = recipe.optimizer.build(objective.model)
    most = plan.largest(figures, rates.rest, plan.USABLE * rates.memory)
    limit = max(1, min(work(run).micro_batch, work(run).batch // ranks.count, most))
    updates = list[float]()

    def timed(module: nn.Module, size: int, average: Callable[[Sequence[float]], float] = statistics.median) -> float:
        batch, data = _random(run, size, shape)
        function, times = runtime.passes(module, lambda remark: None), list[float]()
        while len(times) < 4 or (size == limit and len(times) < MOST_PASSES and sum(times) < SECONDS):
            taken, update = _slowest(ranks, *_step(run, objective, function, optimizer, runtime, data, batch, len(times)))
            times.append(taken)
            updates.append(update)
        return average(times[1:])  # the first chooses kernels, and asks for memory

    size, sizes = min(2, limit), list[tuple[int, float]]()
    while True:
        seconds = timed(objective, size)
        sizes.append((size, seconds))
        if size == limit:
            break
        by_time = int(size * LONGEST / seconds)
        if by_time < 2 * size:
            limit = size
        else:
            size = min(limit, by_time, 8 * size)
            limit = size if by_time <= size else limit
    exchange = 0.0
    if ranks.count > 1:
        travelling = plan.exposed(4 * figures.trainable, rates, ranks.count, seconds)
        exchange = max(0.0, timed(ranks.wrap(objective), size, MEETING) - seconds - travelling)
    fixed, per_image = plan.through(sizes)
    evaluation, telling = _slowest(ranks, _evaluation(objective, runtime, _random(run, size, shape)[0], device), _telling(ranks))
    update = statistics.median(updates[-3:]) + telling
    pace = plan.Pace(fixed=fixed, per_image=per_image, update=update, evaluation=evaluation / size, exchange=exchange)
    return Measured(pace, size, seconds)


def _slowest(ranks: Ranks, *seconds: float) -> tuple[float, ...]:
    return tuple(nanoseconds / 1e9 for nanoseconds in ranks.any(*(round(1e9 * s) for s in seconds)))


def _telling(ranks: Ranks) -> float:
    """Seconds that ranks take for what they tell each other in a step beside the gradients."""
    times = list[float]()
    for _ in range(MOST_PASSES):
        began = time.perf_counter()
        ranks.any(0, 0, 0)
        times.append(time.perf_counter() - began)
    return MEETING(times)


def _random(run: Run, count: int, shape: tuple[int, int, int]) -> tuple[Batch, Training]:
    generator = torch.Generator().manual_seed(run.seed)
    images = torch.randint(0, 256, (count, *shape), generator=generator, dtype=torch.uint8)
    targets = torch.randint(0, len(run.content.classes), (count,), generator=generator)
    data = Training(Split(Stack(images.numpy()), targets.numpy()), run.content.preprocessing, run.recipe.augment, count, run.seed)
    return Batch(images.contiguous(memory_format=torch.channels_last), targets, torch.arange(count), []), data


def _step(
    run: Run,
    objective: Objective,
    function: Pass,
    optimizer: torch.optim.Optimizer,
    runtime: Runtime,
    data: Training,
    batch: Batch,
    step: int,
) -> tuple[float, float]:
    """Seconds of one pass, and of all that a step does besides, as the training loop does it. Nothing is learnt: the rate is tiny."""
    began = time.perf_counter()
    objective.train()
    objective.remember()
    runtime.seed(randomness.step_seed(run.seed, step))
    set_lr(optimizer, 1e-12)
    ready = time.perf_counter()
    batch = batch._replace(images=batch.images.to(runtime.device), targets=batch.targets.to(runtime.device))
    gradients(function, data, batch, step, None, lambda loss, through: None)
    devices.wait(runtime.device)
    passed = time.perf_counter()
    runtime.update(optimizer, run.recipe.clip)
    if run.recipe.constraint is not None:
        run.recipe.constraint(objective.model)
    objective.follow()
    devices.wait(runtime.device)
    return passed - ready, time.perf_counter() - passed + ready - began


def _evaluation(objective: Objective, runtime: Runtime, batch: Batch, device: torch.device) -> float:
    objective.eval()
    images, times = batch.images.to(device), list[float]()
    with torch.inference_mode(), runtime.autocast():
        for _ in range(4):
            began = time.perf_counter()
            objective.logits(images)
            devices.wait(device)
            times.append(time.perf_counter() - began)
    return statistics.median(times[1:])


def loading(run: Run, dataset: Dataset, device: torch.device, ranks: Ranks) -> plan.Loading:
    """How fast the run's own training images become batches here, with as many processes as `train` would start."""
    split = dataset.splits["train"]
    workers = workers_for(split, ranks)
    data = Training(split, run.content.preprocessing, (), min(run.recipe.batch, 64, len(split)), run.seed, run.recipe.crop)
    seen, began = 0, time.perf_counter()
    with closing(batches(data, 0, sys.maxsize, workers)) as stream:
        for number, (_, batch) in enumerate(stream):
            now = time.perf_counter()
            if number <= 2 * workers:  # those that wait already when the first comes
                seen, began = 0, now
                continue
            seen += len(batch.targets)
            if now - began > SECONDS / 2:
                break
    return plan.Loading(seen / (time.perf_counter() - began), overlaps=device.type == "cuda")


def here(run: Run, device: torch.device, precision: Precision, ranks: Ranks) -> tuple[Rates, plan.Network, Measured | None]:
    """The rates of a rank's part of this machine, the network's figures at the precision, and passes of the run; None for these where two
    images do not fit."""
    runtime, figures = Runtime(device, precision, ranks=ranks), network(run, precision)
    rates = ranks.gather(devices.measured(device, precision, ranks, 4 * figures.trainable))[0]
    most = plan.largest(figures, rates.rest, plan.USABLE * rates.memory)
    return rates, figures, passes(run, runtime, figures, rates) if most >= 2 else None


def document(path: Path, wanted: str, count: int | None, say: Callable[[str], None]) -> dict[str, Any]:
    """The document of `plan`. `wanted` is `here` or a device of the table, `count` how many (None: as many as there are ranks); `say` tells
    a person what is going on. Under torchrun the ranks measure together, and a device here is what one of them has of the machine.

    Raises UsageError for a device that is unknown, a count below 1, a file that is no run; and as `complete`.
    """
    if count is not None and count < 1:
        raise UsageError(f"--count should be 1 or more, not {count}")
    with join() as ranks:
        return _document(path, None if wanted == "here" else devices.find(wanted), count or ranks.count, say, ranks)


def _document(path: Path, published: Rates | None, count: int, say: Callable[[str], None], ranks: Ranks) -> dict[str, Any]:
    asked, device = read(path), pick_device(ranks=ranks)
    say("convatlas: measuring this machine, passes of the run and the loading of its data: about 10 s")
    keep_freed_memory()
    run, dataset, missing = opened(asked, device)
    notes, amount = [missing] if missing else [], work(run)
    loader = None if dataset is None else min(ranks.gather(loading(run, dataset, device, ranks)), key=lambda loader: loader.rate)
    precision: Precision = "fp32" if run.precision == "auto" else run.precision
    measurable: Precision = "fp32" if published and precision == "tf32" and device.type == "cpu" else precision
    rates, figures, found = here(run, device, measurable, ranks)
    share = min(1.0, plan.training_roofline(figures, rates, found.images) / found.seconds) if found else None
    if published is None and found is not None:
        origin, pace = "measured", found.pace
        if worth_compiling(device, 3.0 * figures.macs * run.recipe.batch * run.steps) if run.compile == "auto" else run.compile:
            notes.append("measured without compiling: train would compile this run, and be quicker")
    else:
        if published is not None:
            rates, before = published, precision
            precision = rates.precision(("bf16" if "bf16" in rates.flops else "fp32") if asked.precision == "auto" else precision)
            if precision != before:
                notes.append(f"planned in {precision}, which is what {rates.name} multiplies in hardware; the run says {before}")
            figures = network(run, precision)
        origin = "roofline, its share measured here" if share and share < plan.ATTAINED else "roofline, its share assumed"
        share = min(share or 1.0, plan.ATTAINED)
        pace = plan.pace(figures, rates, amount.micro_batch, share)
    if count > amount.batch:
        notes.append(f"a batch of {amount.batch} gives an image to no more than {amount.batch} devices: the others have nothing to do")
    step = {"origin": origin, "share": share, "pace": pace, "overlapped": plan.OVERLAPPED}
    return {
        "run_id": run.id,
        "model": run.model.name,
        "data_set": run.data.name,
        "recipe": run.recipe.name,
        "precision": precision,
        "batch": amount.batch,
        "micro_batch": amount.micro_batch,
        "steps": amount.steps,
        "steps_per_epoch": amount.steps_per_epoch,
        "macs": figures.macs,
        "params": figures.params,
        "count": count,
        "device": rates,
        "step": step | {"measured_images": found.images if found else None, "measured_seconds": found.seconds if found else None},
        **plan.document(figures, amount, pace, rates, count, loader, published is None),
        "notes": notes,
    }
