"""How long a run's work takes on this machine: some of its steps, and batches of its data."""

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from convatlas.data import Dataset
from convatlas.data.dataset import ArrayImages, Split
from convatlas.data.loading.batch import Batch
from convatlas.data.loading.loader import default_num_workers, iterate_batches
from convatlas.data.loading.train_batches import TrainBatches
from convatlas.layers.fused_batch_norm import choose_kernels
from convatlas.runtime.distributed.ranks import Ranks
from convatlas.runtime.hardware import DeviceSpec, synchronize
from convatlas.runtime.runtime import Runtime
from convatlas.training.batches import train_batches
from convatlas.training.objective import prepare_for_training
from convatlas.training.planning.memory import USABLE, max_micro_batch
from convatlas.training.planning.scaling import exposed_comm_seconds
from convatlas.training.planning.step_time import LoaderRate, StepTime, fit_line
from convatlas.training.planning.workload import ModelCost, untrained_objective, workload
from convatlas.training.run import Run
from convatlas.training.step import TrainStep
from convatlas.training.tasks import task_of

MAX_PASS_SECONDS = 1.5  # of one measured pass
SECONDS = 2.5  # for the passes of the largest size; half of it for the batches that are loaded
MAX_PASSES = 40
# Where ranks wait for each other, one time in ten is several times the median, and counts
SYNC_AVERAGE = statistics.fmean
TINY_LR = 1e-12  # nothing is learnt

Average = Callable[[Sequence[float]], float]


@dataclass(frozen=True)
class StepProfile:
    """The seconds that passes of `images` took here, and what follows for other sizes."""

    step_time: StepTime
    images: int
    seconds: float


def profile_steps(run: Run, runtime: Runtime, cost: ModelCost, device: DeviceSpec) -> StepProfile | None:
    """Time passes of two images, then of more, up to the micro-batch, what fits, or what takes
    MAX_PASS_SECONDS.

    Ranks do them together, and the slowest counts; then they exchange the gradients as well. None where two
    do not fit.
    """
    ranks = runtime.ranks
    fitting = max_micro_batch(cost, device.reserved_bytes, USABLE * device.memory)
    if fitting < 2:
        return None
    profiler = StepProfiler(run, runtime)
    work = workload(run)
    limit = max(1, min(work.micro_batch, work.batch // ranks.world_size, fitting))
    size = min(2, limit)
    measurements: list[tuple[int, float]] = []
    while True:
        seconds, update = profiler.passes(profiler.objective, size, thorough=size == limit)
        measurements.append((size, seconds))
        if size == limit:
            break
        by_time = int(size * MAX_PASS_SECONDS / seconds)
        if by_time < 2 * size:
            limit = size
        else:
            size = min(limit, by_time, 8 * size)
            limit = size if by_time <= size else limit
    exchange = 0.0
    if ranks.world_size > 1:
        parallel = ranks.wrap_ddp(profiler.objective)
        with_exchange, update = profiler.passes(parallel, size, thorough=True, average=SYNC_AVERAGE)
        transfer = exposed_comm_seconds(4 * cost.trainable, device, ranks.world_size, seconds)
        exchange = max(0.0, with_exchange - seconds - transfer)
    fixed, per_image = fit_line(measurements)
    evaluation, sync = _slowest(ranks, profiler.evaluation(size), _sync_seconds(ranks))
    step_time = StepTime(
        fixed=fixed,
        per_image=per_image,
        update=update + sync,
        evaluation=evaluation / size,
        exchange=exchange,
    )
    return StepProfile(step_time, size, seconds)


class StepProfiler:
    """The run's steps as the training loop does them, with random images.

    The rate is tiny, so nothing is learnt.
    """

    def __init__(self, run: Run, runtime: Runtime):
        torch.manual_seed(run.seed)
        self.run = run
        self.runtime = runtime
        self.objective = untrained_objective(run)
        if run.recipe.ema is not None:
            self.objective.ema = run.recipe.ema.build(self.objective.model).requires_grad_(False)
        prepare_for_training(self.objective, runtime, choose_kernels(self.objective, runtime.device))
        self.optimizer = run.recipe.optimizer.build(self.objective.model)

    def passes(
        self,
        module: nn.Module,
        images: int,
        thorough: bool,
        average: Average = statistics.median,
    ) -> tuple[float, float]:
        """Median seconds of a pass of `images`, and of the rest of the step."""
        batch, data = random_batch(self.run, images)
        forward_backward = self.runtime.forward_backward(module, lambda remark: None)
        recipe = self.run.recipe.replace(micro_batch=None)
        step = TrainStep(self.objective, self.optimizer, self.runtime, recipe, data, forward_backward)
        passes: list[float] = []
        updates: list[float] = []
        while len(passes) < 4 or (thorough and len(passes) < MAX_PASSES and sum(passes) < SECONDS):
            pass_seconds, update = _slowest(self.runtime.ranks, *self._time_step(step, batch, len(passes)))
            passes.append(pass_seconds)
            updates.append(update)
        return average(passes[1:]), statistics.median(
            updates[-3:]
        )  # the first chooses kernels and allocates memory

    def _time_step(self, step: TrainStep, batch: Batch, number: int) -> tuple[float, float]:
        """Seconds of one pass, and of all else in its step."""
        device = self.runtime.device
        start = time.perf_counter()
        step.prepare(number, TINY_LR)
        prepared = time.perf_counter()
        batch = batch._replace(images=batch.images.to(device), targets=batch.targets.to(device))
        step.backward(batch, number)
        synchronize(device)
        passed = time.perf_counter()
        step.update()
        synchronize(device)
        updated = time.perf_counter()
        return passed - prepared, (updated - passed) + (prepared - start)

    def evaluation(self, images: int) -> float:
        """Seconds that the evaluation of `images` takes."""
        self.objective.eval()
        batch = random_batch(self.run, images)[0].images.to(self.runtime.device)
        times: list[float] = []
        with torch.inference_mode(), self.runtime.autocast():
            for _ in range(4):
                start = time.perf_counter()
                self.objective.logits(batch)
                synchronize(self.runtime.device)
                times.append(time.perf_counter() - start)
        return statistics.median(times[1:])


def random_batch(run: Run, count: int) -> tuple[Batch, TrainBatches]:
    shape = run.content.preprocessing.shape
    generator = torch.Generator().manual_seed(run.seed)
    images = torch.randint(0, 256, (count, *shape), generator=generator, dtype=torch.uint8)
    targets = task_of(run).example_targets(count, len(run.content.classes), run.content.preprocessing)
    data = train_batches(run, Split(ArrayImages(images.numpy()), np.zeros(count, np.int64)), batch=count)
    channels_last = images.contiguous(memory_format=torch.channels_last)
    return Batch(channels_last, targets, torch.arange(count), []), data


def profile_loader(run: Run, dataset: Dataset, device: torch.device, ranks: Ranks) -> LoaderRate:
    """How fast the training images become batches here, with the processes of `train`."""
    split = dataset.splits["train"]
    workers = default_num_workers(split, ranks)
    data = train_batches(run, split, batch=min(run.recipe.batch, 64, len(split)), augmented=False)
    images = 0
    start = time.perf_counter()
    with closing(iterate_batches(data, 0, sys.maxsize, workers)) as batches:
        for number, (_, batch) in enumerate(batches):
            now = time.perf_counter()
            if number <= 2 * workers:  # those that are ready when the first arrives
                images = 0
                start = now
                continue
            images += len(batch.targets)
            if now - start > SECONDS / 2:
                break
    return LoaderRate(images / (time.perf_counter() - start), overlaps=device.type == "cuda")


def _slowest(ranks: Ranks, *seconds: float) -> tuple[float, ...]:
    nanoseconds = ranks.all_reduce_max(*(round(1e9 * s) for s in seconds))
    return tuple(n / 1e9 for n in nanoseconds)


def _sync_seconds(ranks: Ranks) -> float:
    """Seconds that ranks take for what they exchange in a step beside the gradients."""
    times: list[float] = []
    for _ in range(MAX_PASSES):
        start = time.perf_counter()
        ranks.all_reduce_max(0, 0, 0)
        times.append(time.perf_counter() - start)
    return SYNC_AVERAGE(times)
