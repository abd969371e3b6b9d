"""How long the work of a run takes on the machine at hand: some of its steps, with random images, and some batches of its data."""

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass

import torch
from torch import nn

from convatlas.data import Dataset
from convatlas.data.dataset import ArrayImages, Split
from convatlas.data.loading.batch import Batch
from convatlas.data.loading.loader import default_num_workers, iterate_batches
from convatlas.data.loading.train_batches import TrainBatches
from convatlas.data.transforms import counter_rng
from convatlas.optim.optimizers import set_lr
from convatlas.runtime.cuda_graph import ForwardBackward
from convatlas.runtime.distributed.ranks import Ranks
from convatlas.runtime.hardware import DeviceSpec, synchronize
from convatlas.runtime.runtime import Runtime
from convatlas.training.planning.memory import USABLE, max_micro_batch
from convatlas.training.planning.scaling import exposed_comm_seconds
from convatlas.training.planning.step_time import LoaderRate, StepTime, fit_line
from convatlas.training.planning.workload import ModelCost, untrained, workload
from convatlas.training.run import Run
from convatlas.training.step import accumulate_gradients

MAX_SECONDS = 1.5  # seconds: of one measured pass
SECONDS = 2.5  # for the passes of the largest size, for the batches that are loaded
MAX_PASSES = 40
SYNC_AVERAGE = statistics.fmean  # where ranks wait for each other, one time in ten is several times the median, and counts


@dataclass(frozen=True)
class StepProfile:
    """How long passes of so many images took here, and what follows for others."""

    pace: StepTime
    images: int
    seconds: float


def profile_steps(run: Run, runtime: Runtime, figures: ModelCost, rates: DeviceSpec) -> StepProfile | None:
    """Time passes of two images, then more, up to the micro-batch or what fits, or as many as take a second; None where two do not fit.

    Ranks do them together, and the slowest counts; then they exchange the gradients as well.
    """
    ranks, most = runtime.ranks, max_micro_batch(figures, rates.reserved_bytes, USABLE * rates.memory)
    if most < 2:
        return None
    rehearsal = StepProfiler(run, runtime)
    limit = max(1, min(workload(run).micro_batch, workload(run).batch // ranks.world_size, most))
    size, sizes = min(2, limit), list[tuple[int, float]]()
    while True:
        seconds, update = rehearsal.passes(rehearsal.objective, size, thorough=size == limit)
        sizes.append((size, seconds))
        if size == limit:
            break
        by_time = int(size * MAX_SECONDS / seconds)
        if by_time < 2 * size:
            limit = size
        else:
            size = min(limit, by_time, 8 * size)
            limit = size if by_time <= size else limit
    exchange = 0.0
    if ranks.world_size > 1:
        exchanging, update = rehearsal.passes(ranks.wrap_ddp(rehearsal.objective), size, thorough=True, average=SYNC_AVERAGE)
        exchange = max(0.0, exchanging - seconds - exposed_comm_seconds(4 * figures.trainable, rates, ranks.world_size, seconds))
    fixed, per_image = fit_line(sizes)
    evaluation, telling = _slowest(ranks, rehearsal.evaluation(size), _sync_seconds(ranks))
    pace = StepTime(fixed=fixed, per_image=per_image, update=update + telling, evaluation=evaluation / size, exchange=exchange)
    return StepProfile(pace, size, seconds)


class StepProfiler:
    """The run's steps as the training loop does them, with random images. Nothing is learnt: the rate is tiny."""

    def __init__(self, run: Run, runtime: Runtime):
        torch.manual_seed(run.seed)
        self.run, self.runtime, self.objective = run, runtime, untrained(run)
        if run.recipe.average is not None:
            self.objective.average = run.recipe.average.build(self.objective.model).requires_grad_(False)
        runtime.to_device(self.objective)
        self.optimizer = run.recipe.optimizer.build(self.objective.model)

    def passes(
        self, module: nn.Module, size: int, thorough: bool, average: Callable[[Sequence[float]], float] = statistics.median
    ) -> tuple[float, float]:
        """Seconds of a pass of `size` images, and of the update after it; of a few, or of as many as take SECONDS."""
        batch, data = random_batch(self.run, size)
        function, times, updates = self.runtime.forward_backward(module, lambda remark: None), list[float](), list[float]()
        while len(times) < 4 or (thorough and len(times) < MAX_PASSES and sum(times) < SECONDS):
            taken, update = _slowest(self.runtime.ranks, *self._step(function, data, batch, len(times)))
            times.append(taken)
            updates.append(update)
        return average(times[1:]), statistics.median(updates[-3:])  # the first chooses kernels, and asks for memory

    def _step(self, function: ForwardBackward, data: TrainBatches, batch: Batch, step: int) -> tuple[float, float]:
        """Seconds of one pass, and of all that a step does besides."""
        run, runtime, objective = self.run, self.runtime, self.objective
        began = time.perf_counter()
        objective.train()
        objective.snapshot_statistics()
        runtime.seed_step(counter_rng.step_seed(run.seed, step))
        set_lr(self.optimizer, 1e-12)
        ready = time.perf_counter()
        batch = batch._replace(images=batch.images.to(runtime.device), targets=batch.targets.to(runtime.device))
        accumulate_gradients(function, data, batch, step, None, lambda loss, through: None)
        synchronize(runtime.device)
        passed = time.perf_counter()
        runtime.optimizer_step(self.optimizer, run.recipe.clip)
        if run.recipe.constraint is not None:
            run.recipe.constraint(objective.model)
        objective.update_ema()
        synchronize(runtime.device)
        return passed - ready, time.perf_counter() - passed + ready - began

    def evaluation(self, size: int) -> float:
        """Seconds that the evaluation of `size` images takes."""
        self.objective.eval()
        images, times = random_batch(self.run, size)[0].images.to(self.runtime.device), list[float]()
        with torch.inference_mode(), self.runtime.autocast():
            for _ in range(4):
                began = time.perf_counter()
                self.objective.logits(images)
                synchronize(self.runtime.device)
                times.append(time.perf_counter() - began)
        return statistics.median(times[1:])


def _slowest(ranks: Ranks, *seconds: float) -> tuple[float, ...]:
    return tuple(nanoseconds / 1e9 for nanoseconds in ranks.all_reduce_max(*(round(1e9 * s) for s in seconds)))


def _sync_seconds(ranks: Ranks) -> float:
    """Seconds that ranks take for what they tell each other in a step beside the gradients."""
    times = list[float]()
    for _ in range(MAX_PASSES):
        began = time.perf_counter()
        ranks.all_reduce_max(0, 0, 0)
        times.append(time.perf_counter() - began)
    return SYNC_AVERAGE(times)


def random_batch(run: Run, count: int) -> tuple[Batch, TrainBatches]:
    shape = run.content.preprocessing.shape
    generator = torch.Generator().manual_seed(run.seed)
    images = torch.randint(0, 256, (count, *shape), generator=generator, dtype=torch.uint8)
    targets = torch.randint(0, len(run.content.classes), (count,), generator=generator)
    data = TrainBatches(Split(ArrayImages(images.numpy()), targets.numpy()), run.content.preprocessing, run.recipe.augment, count, run.seed)
    return Batch(images.contiguous(memory_format=torch.channels_last), targets, torch.arange(count), []), data


def profile_loader(run: Run, dataset: Dataset, device: torch.device, ranks: Ranks) -> LoaderRate:
    """How fast the run's own training images become batches here, with as many processes as `train` would start."""
    split = dataset.splits["train"]
    workers = default_num_workers(split, ranks)
    data = TrainBatches(split, run.content.preprocessing, (), min(run.recipe.batch, 64, len(split)), run.seed, run.recipe.crop)
    seen, began = 0, time.perf_counter()
    with closing(iterate_batches(data, 0, sys.maxsize, workers)) as stream:
        for number, (_, batch) in enumerate(stream):
            now = time.perf_counter()
            if number <= 2 * workers:  # those that wait already when the first comes
                seen, began = 0, now
                continue
            seen += len(batch.targets)
            if now - began > SECONDS / 2:
                break
    return LoaderRate(seen / (time.perf_counter() - began), overlaps=device.type == "cuda")
