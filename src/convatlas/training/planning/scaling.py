"""The cost of a run on several devices: memory, time, communication. Arithmetic alone, on analysed and
measured figures.

Each device takes an equal part of the global batch, in passes of at most a micro-batch; after the last pass
the gradients are averaged around a ring.
"""

from typing import Literal

from convatlas.runtime.hardware import DeviceSpec
from convatlas.storage.records import Record
from convatlas.training.planning.memory import USABLE, estimate_memory
from convatlas.training.planning.step_time import LoaderRate, StepTime, num_passes
from convatlas.training.planning.workload import ModelCost, Workload

# Of a pass: as many products for the inputs' gradients as in the forward, and as many for the weights'
BACKWARD_SHARE = 2 / 3
# Of the backward pass gradients travel while others are computed: all but the first layers' are known before
# its end
OVERLAPPED_SHARE = 0.8
# Bytes of gradients that torch exchanges together, arXiv:2006.15704; the last bucket waits for the first
# layers'
BUCKET_BYTES = 25 * 2**20
COUNTS = (1, 2, 4, 8, 16, 32, 64)
EXTRAPOLATED_COUNTS = (128, 256, 512, 1024, 2048, 4096)  # that no run of this project has used


class ScalingRow(Record, frozen=True, kw_only=True):
    """A run on `devices`.

    `images` are those of one step on the device with the most; `busy_devices` have some.
    """

    devices: int
    busy_devices: int
    images: int
    passes: int
    step_seconds: float
    compute_seconds: float  # of a step, with the optimiser and the work of an exchange
    all_reduce_bytes: float  # of a step, sent by each device
    all_reduce_seconds: float
    exposed_seconds: float  # of those, the seconds that the backward pass does not hide
    images_per_second: float  # in training
    efficiency: float  # of `devices` times the rate of one
    epoch_seconds: float  # with validation
    seconds: float  # of the whole run, with every validation and the test
    device_hours: float
    memory_bytes: int
    fits: bool
    limited_by: Literal["compute", "all-reduce", "batch", "data"]
    extrapolated: bool  # beyond the counts that were ever compared with a run


def exposed_comm_seconds(size: int, device: DeviceSpec, count: int, seconds: float) -> float:
    """Seconds that a pass of `seconds` is longer because `size` bytes of gradients travel around a ring of
    `count`.

    The backward pass hides some of the transfer, and never the last bucket.
    """
    slowest = device.ring_bandwidth(count)
    hidden = OVERLAPPED_SHARE * BACKWARD_SHARE * seconds
    last_bucket = ring_bytes(min(size, BUCKET_BYTES), count) / slowest
    return max(ring_bytes(size, count) / slowest - hidden, last_bucket)


def ring_bytes(size: int, count: int) -> float:
    """Bytes that each device sends, and receives, to sum `size` bytes around a ring: 2 (n - 1) / n.

    Patarasuk & Yuan 2009, doi:10.1016/j.jpdc.2008.09.002.
    """
    return 2 * (count - 1) / count * size


def estimate(
    cost: ModelCost,
    work: Workload,
    step_time: StepTime,
    device: DeviceSpec,
    count: int,
    loader: LoaderRate | None = None,
    single_device_rate: float | None = None,
) -> ScalingRow:
    """The run on `count` devices.

    `loader`: the rate of each device's machine (None: fast enough); `single_device_rate`: images a second of
    one device, where known.
    """
    images = num_passes(work.batch, count)  # the largest share, which the others wait for
    busy_devices = num_passes(work.batch, images)
    passes = num_passes(images, work.micro_batch)
    pass_seconds = step_time.passes(images, work.micro_batch)
    gradients = 4 * cost.trainable
    exposed = exposed_comm_seconds(gradients, device, busy_devices, pass_seconds / passes)
    compute = pass_seconds + step_time.update + (step_time.exchange if busy_devices > 1 else 0.0)
    without_loading = compute + exposed
    step = loader.step_seconds(without_loading, images) if loader else without_loading

    def evaluation_seconds(split: int) -> float:
        batches = num_passes(split, work.evaluation_batch)
        images_each = num_passes(batches, count) * work.evaluation_batch if split else 0
        seconds = images_each * step_time.evaluation
        return loader.step_seconds(seconds, images_each) if loader else seconds

    validations = num_passes(work.steps, work.steps_per_epoch)
    seconds = work.steps * step + validations * evaluation_seconds(work.val) + evaluation_seconds(work.test)
    rate = work.batch / step
    if count == 1:
        single_device_rate = rate
    elif single_device_rate is None:
        single_device_rate = estimate(cost, work, step_time, device, 1, loader).images_per_second
    micro_batch = min(images, work.micro_batch)
    memory = estimate_memory(cost, device.reserved_bytes, micro_batch, images, work.evaluation_batch).total
    limit: Literal["compute", "all-reduce", "batch", "data"] = "compute"
    if step > 2 * without_loading:
        limit = "data"
    elif count > work.batch:
        limit = "batch"
    elif exposed > 0.1 * step:
        limit = "all-reduce"
    return ScalingRow(
        devices=count,
        busy_devices=busy_devices,
        images=images,
        passes=passes,
        step_seconds=step,
        compute_seconds=compute,
        all_reduce_bytes=ring_bytes(gradients, busy_devices),
        all_reduce_seconds=ring_bytes(gradients, busy_devices) / device.ring_bandwidth(busy_devices),
        exposed_seconds=exposed,
        images_per_second=rate,
        efficiency=rate / count / single_device_rate,
        epoch_seconds=work.steps_per_epoch * step + evaluation_seconds(work.val),
        seconds=seconds,
        device_hours=count * seconds / 3600,
        memory_bytes=memory,
        fits=memory <= USABLE * device.memory,
        limited_by=limit,
        extrapolated=count > COUNTS[-1],
    )


def scaling_table(
    cost: ModelCost,
    work: Workload,
    step_time: StepTime,
    device: DeviceSpec,
    count: int,
    loader: LoaderRate | None = None,
) -> list[ScalingRow]:
    """1, 2, 4, ... devices, to 4,096 or one for each image of a batch, and `count`."""
    single = estimate(cost, work, step_time, device, 1, loader)
    useful = {number for number in (*COUNTS, *EXTRAPOLATED_COUNTS) if number <= work.batch}
    counts = sorted({*useful, count} - {1})
    rate = single.images_per_second
    return [single, *(estimate(cost, work, step_time, device, n, loader, rate) for n in counts)]


def required_loading_rate(row: ScalingRow, work: Workload) -> float:
    """Images a second that the devices would take if they never waited for data."""
    return work.batch / (row.compute_seconds + row.exposed_seconds)
