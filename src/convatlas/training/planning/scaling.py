"""What a run costs on so many devices: memory, time, communication. Arithmetic alone: what goes in was analysed, measured or published.

Of `count` devices each takes an equal part of the global batch, in passes of at most a micro-batch, and after the last pass the
gradients are averaged around a ring.
"""

import math
from typing import Any, Literal

from convatlas.runtime.hardware import DeviceSpec
from convatlas.storage.records import Record
from convatlas.training.planning.memory import USABLE, estimate_memory, max_micro_batch
from convatlas.training.planning.step_time import LoaderRate, StepTime, num_passes
from convatlas.training.planning.workload import ModelCost, Workload

BACKWARD_SHARE = 2 / 3  # of a pass: as many products for the inputs' gradients as in the forward, and as many for the weights'
OVERLAPPED_SHARE = 0.8  # of the backward pass, gradients travel while others are made: all but the first layers' are known before its end
BUCKET_BYTES = 25 * 2**20  # bytes of gradients that torch exchanges together, arXiv:2006.15704; the last wait for the first layers'
COUNTS = (1, 2, 4, 8, 16, 32, 64)
ARITHMETIC = (128, 256, 512, 1024, 2048, 4096)  # counts that no run of this project has seen


def exposed_comm_seconds(size: int, rates: DeviceSpec, count: int, seconds: float) -> float:
    """Seconds that a pass of `seconds` is longer when `size` bytes of gradients travel around a ring of `count`: those that its backward
    does not hide. It never hides the last bucket."""
    slowest = rates.ring_bandwidth(count)
    hidden = OVERLAPPED_SHARE * BACKWARD_SHARE * seconds
    return max(ring_bytes(size, count) / slowest - hidden, ring_bytes(min(size, BUCKET_BYTES), count) / slowest)


def ring_bytes(size: int, count: int) -> float:
    """Bytes that each device sends, and receives, to sum `size` bytes around a ring: 2 (n - 1) / n (Patarasuk & Yuan 2009,
    doi:10.1016/j.jpdc.2008.09.002)."""
    return 2 * (count - 1) / count * size


class ScalingRow(Record, frozen=True, kw_only=True):
    """A run on `devices`. `images` are of one step on the device that has most of them; `working` of the devices have some."""

    devices: int
    busy_devices: int
    images: int
    passes: int
    step_seconds: float
    compute_seconds: float  # of a step, the optimiser and the work of an exchange included
    all_reduce_bytes: float  # of a step, sent by each device
    all_reduce_seconds: float
    exposed_seconds: float  # of those, what the backward pass does not hide
    images_per_second: float  # in training
    efficiency: float  # of `devices` times one
    epoch_seconds: float  # with validation
    seconds: float  # to the end, with every validation and the test
    device_hours: float
    memory_bytes: int
    fits: bool
    limited_by: Literal["compute", "all-reduce", "batch", "data"]
    extrapolated: bool  # beyond what was ever compared with a run


def estimate(
    network: ModelCost,
    work: Workload,
    pace: StepTime,
    rates: DeviceSpec,
    count: int,
    loading: LoaderRate | None = None,
    one: float | None = None,
) -> ScalingRow:
    """`count` devices; `loading` is what each one's machine loads (None: taken to be quick enough), `one` the images a second of one."""
    images = num_passes(work.batch, count)  # the largest share: the one that the others wait for
    working = num_passes(work.batch, images)
    rounds = num_passes(images, work.micro_batch)
    through_network = pace.images(images, work.micro_batch)
    gradients = 4 * network.trainable
    waiting = exposed_comm_seconds(gradients, rates, working, through_network / rounds)
    compute = through_network + pace.update + (pace.exchange if working > 1 else 0.0)
    alone = compute + waiting
    step = loading.step_seconds(alone, images) if loading else alone

    def asked(split: int) -> float:
        each = num_passes(num_passes(split, work.evaluation_batch), count) * work.evaluation_batch if split else 0
        seconds = each * pace.evaluation
        return loading.step_seconds(seconds, each) if loading else seconds

    validations = num_passes(work.steps, work.steps_per_epoch)
    seconds = work.steps * step + validations * asked(work.val) + asked(work.test)
    rate = work.batch / step
    first = rate if count == 1 else one or estimate(network, work, pace, rates, 1, loading).images_per_second
    held = estimate_memory(network, rates.reserved_bytes, min(images, work.micro_batch), images, work.evaluation_batch).total
    limit: Literal["compute", "all-reduce", "batch", "data"] = "compute"
    if step > 2 * alone:
        limit = "data"
    elif count > work.batch:
        limit = "batch"
    elif waiting > 0.1 * step:
        limit = "all-reduce"
    return ScalingRow(
        devices=count,
        busy_devices=working,
        images=images,
        passes=rounds,
        step_seconds=step,
        compute_seconds=compute,
        all_reduce_bytes=ring_bytes(gradients, working),
        all_reduce_seconds=ring_bytes(gradients, working) / rates.ring_bandwidth(working),
        exposed_seconds=waiting,
        images_per_second=rate,
        efficiency=rate / count / first,
        epoch_seconds=work.steps_per_epoch * step + asked(work.val),
        seconds=seconds,
        device_hours=count * seconds / 3600,
        memory_bytes=held,
        fits=held <= USABLE * rates.memory,
        limited_by=limit,
        extrapolated=count > COUNTS[-1],
    )


def scaling_table(
    network: ModelCost, work: Workload, pace: StepTime, rates: DeviceSpec, count: int, loading: LoaderRate | None = None
) -> list[ScalingRow]:
    """1, 2, 4, ... 64 devices, on to 4,096, and `count`."""
    one = estimate(network, work, pace, rates, 1, loading)
    counts = sorted({*COUNTS, *ARITHMETIC, count} - {1})
    return [one, *(estimate(network, work, pace, rates, n, loading, one.images_per_second) for n in counts)]


def document(
    network: ModelCost, work: Workload, pace: StepTime, rates: DeviceSpec, count: int, loader: LoaderRate | None, here: bool
) -> dict[str, Any]:
    """The part of `plan`'s JSON document that is arithmetic. `loader` is this machine's, which limits only devices that are `here`."""
    found = scaling_table(network, work, pace, rates, count, loader if here else None)
    asked = next(r for r in found if r.devices == count)
    held = estimate_memory(network, rates.reserved_bytes, min(asked.images, work.micro_batch), asked.images, work.evaluation_batch)
    needed = needs(asked, work)
    return {
        "memory": held._asdict() | {"training": held.training, "total": held.total, "of": rates.memory, "usable": USABLE * rates.memory},
        "fits": asked.fits,
        "largest_batch": max_micro_batch(network, rates.reserved_bytes, USABLE * rates.memory),
        "images_per_second": asked.images_per_second,
        "seconds": asked.seconds,
        "device_hours": asked.device_hours,
        "data": {
            "bytes_per_step": work.batch * network.image_bytes,
            "images_per_second_needed": needed,
            "loader_images_per_second": loader.rate if loader else None,
            "loaders": None if loader is None else math.ceil(needed / loader.rate),
            "meets": None if loader is None else loader.rate * (count if here else 1) >= needed,
        },
        "asked": asked,
        "rows": found,
    }


def needs(row: ScalingRow, work: Workload) -> float:
    """Images a second that the devices would take, had nothing to be waited for."""
    return work.batch / (row.compute_seconds + row.exposed_seconds)
