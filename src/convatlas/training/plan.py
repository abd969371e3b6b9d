"""What a run costs on so many devices: memory, time, communication. Arithmetic alone: what goes in was analysed, measured or published.

Of `count` devices each takes an equal part of the global batch, in passes of at most a micro-batch, and after the last pass the
gradients are averaged around a ring. Bytes are bytes, times seconds, images of one image's size as the network sees it.
"""

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from convatlas.runtime.device import Precision
from convatlas.runtime.rates import Rates
from convatlas.storage.records import Record

BACKWARD = 2 / 3  # of a pass: as many products for the inputs' gradients as in the forward, and as many for the weights'
OVERLAPPED = 0.8  # of the backward pass, gradients travel while others are made: all but the first layers' are known before its end
BUCKET = 25 * 2**20  # bytes of gradients that torch exchanges together, arXiv:2006.15704; the last wait for the first layers'
USABLE = 0.9  # of a device's memory: the rest is lost between the blocks of the allocator
ATTAINED = (
    0.7  # of the roofline by published peaks, at most: ResNet-50 by NVIDIA's own scripts attains 0.5 to 0.9 (tests/training/test_plan.py)
)
COUNTS = (1, 2, 4, 8, 16, 32, 64)
ARITHMETIC = (128, 256, 512, 1024, 2048, 4096)  # counts that no run of this project has seen


class Layer(Record, frozen=True):
    """The forward of one image through one layer: FLOPs, bytes of its weights, all bytes that its operators read and write."""

    flops: int
    weights: int
    moved: int


class Network(Record, frozen=True, kw_only=True):
    """What is trained, at one precision. Parameters are kept, and their gradients averaged, in float32."""

    precision: Precision
    params: int
    trainable: int
    buffers: int  # bytes
    states: int  # tensors of a parameter's size that the optimiser keeps for each that is trained
    averaged: bool  # an average of the weights is kept, too
    macs: int  # of one forward, auxiliary heads included
    image_bytes: int  # one image as it arrives, uint8
    kept_bytes: int  # activations of one image that autograd keeps for the backward pass
    pass_bytes: int  # more that it keeps of a pass, however many images: of the weights, copies in bfloat16
    passing_bytes: int  # most that one image needs beside those in its backward pass: gradients of activations
    inference_bytes: int  # most activations of one image alive in evaluation
    layers: tuple[Layer, ...]


class Work(Record, frozen=True, kw_only=True):
    """How much there is to do. `micro_batch` images at most go through a device together."""

    batch: int
    micro_batch: int
    evaluation_batch: int
    steps: int
    steps_per_epoch: int
    val: int  # images
    test: int


class Pace(Record, frozen=True, kw_only=True):
    """Seconds: a training pass of k images takes fixed + k per_image; then `update` for the optimiser; `evaluation` an image. Where
    gradients are exchanged, a step takes `exchange` more, beside their travelling: to gather them, and to wait for the slowest."""

    fixed: float
    per_image: float
    update: float
    evaluation: float
    exchange: float = 0.0

    def images(self, count: int, micro_batch: int) -> float:
        """Seconds for `count` images in passes of at most `micro_batch`."""
        return self.fixed * passes(count, micro_batch) + self.per_image * count


class Loading(Record, frozen=True):
    """How fast one machine makes batches, in images a second, and whether it does so while the device computes."""

    rate: float
    overlaps: bool

    def joined(self, seconds: float, images: int) -> float:
        """Seconds for work on `images` that must be loaded, too."""
        return max(seconds, images / self.rate) if self.overlaps else seconds + images / self.rate


class Memory(NamedTuple):
    """Bytes on one device."""

    rest: int  # there before the network comes
    weights: int
    gradients: int
    optimizer: int
    average: int
    copies: int  # of the weights, in the precision of the products
    activations: int  # kept for the backward pass
    passing: int
    batch: int  # images as they arrive
    evaluation: int  # what evaluation needs, when gradients and the four before it are not there

    @property
    def training(self) -> int:
        return sum(self) - self.evaluation

    @property
    def evaluating(self) -> int:
        return self.rest + self.weights + self.optimizer + self.average + self.evaluation

    @property
    def total(self) -> int:
        return max(self.training, self.evaluating)


def memory(network: Network, rest: int, images: int, arriving: int = 0, evaluation_batch: int = 0) -> Memory:
    """What training with passes of `images` needs, of steps of `arriving` (0: as many), and evaluation in batches of `evaluation_batch`."""
    own = 4 * network.params + network.buffers
    return Memory(
        rest=rest,
        weights=own,
        gradients=4 * network.trainable,
        optimizer=4 * network.trainable * network.states,
        average=own if network.averaged else 0,
        copies=network.pass_bytes,
        activations=images * network.kept_bytes,
        passing=images * network.passing_bytes,
        batch=(arriving or images) * network.image_bytes,
        evaluation=network.pass_bytes + evaluation_batch * (network.inference_bytes + network.image_bytes),
    )


def largest(network: Network, rest: int, room: float) -> int:
    """The most images that one pass can hold in `room` bytes of memory; 0 where not even one fits."""
    none, one = (memory(network, rest, images).training for images in (0, 1))
    return max(0, int((room - none) // (one - none)))


def largest_evaluation(network: Network, rest: int, room: float) -> int:
    """The most images of one batch of evaluation; 0 where not even one fits."""
    none, one = (memory(network, rest, 0, evaluation_batch=images).evaluating for images in (0, 1))
    return max(0, int((room - none) // (one - none)))


def passes(images: int, micro_batch: int) -> int:
    return -(-images // micro_batch)


# Time


def roofline(network: Network, rates: Rates, images: int) -> float:
    """Seconds that one forward of `images` takes at least: of each layer the longer of its FLOPs and its bytes at their peak rates
    (Williams, Waterman, Patterson 2009, doi:10.1145/1498765.1498785). Weights are read once for all images."""
    peak, bandwidth = rates.flops[network.precision], rates.bandwidth
    return sum(
        max(images * layer.flops / peak, (layer.weights + images * (layer.moved - layer.weights)) / bandwidth) for layer in network.layers
    )


def training_roofline(network: Network, rates: Rates, images: int) -> float:
    """Seconds that forward and backward take at least: three times the forward."""
    return 3 * roofline(network, rates, images)


def pace(network: Network, rates: Rates, images: int, share: float) -> Pace:
    """By the roofline, of which `share` is attained: exact for passes of one image and of `images`, a straight line between them."""
    one, many = (training_roofline(network, rates, k) / share for k in (1, images))
    per_image = (many - one) / (images - 1) if images > 1 else one
    touched = 4 * network.trainable * (3 + 2 * network.states) + (3 * (4 * network.params + network.buffers) if network.averaged else 0)
    return Pace(
        fixed=max(0.0, one - per_image),
        per_image=per_image,
        update=touched / rates.bandwidth / share,
        evaluation=roofline(network, rates, images) / images / share,
    )


def through(sizes: Sequence[tuple[int, float]]) -> tuple[float, float]:
    """(fixed, per image) from measured (images, seconds), by the smallest size and the largest; neither is negative."""
    (few, quick), (many, slow) = min(sizes), max(sizes)
    if few == many:
        return 0.0, slow / many
    per_image = min(max((slow - quick) / (many - few), 0.0), slow / many)
    return slow - per_image * many, per_image


# Many devices


def exposed(size: int, rates: Rates, count: int, seconds: float) -> float:
    """Seconds that a pass of `seconds` is longer when `size` bytes of gradients travel around a ring of `count`: those that its backward
    does not hide. It never hides the last bucket."""
    slowest = rates.between(count)
    hidden = OVERLAPPED * BACKWARD * seconds
    return max(ring_bytes(size, count) / slowest - hidden, ring_bytes(min(size, BUCKET), count) / slowest)


def ring_bytes(size: int, count: int) -> float:
    """Bytes that each device sends, and receives, to sum `size` bytes around a ring: 2 (n - 1) / n (Patarasuk & Yuan 2009,
    doi:10.1016/j.jpdc.2008.09.002)."""
    return 2 * (count - 1) / count * size


class Row(Record, frozen=True, kw_only=True):
    """A run on `devices`. `images` are of one step on the device that has most of them; `working` of the devices have some."""

    devices: int
    working: int
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
    arithmetic: bool  # beyond what was ever compared with a run


def row(
    network: Network, work: Work, pace: Pace, rates: Rates, count: int, loading: Loading | None = None, one: float | None = None
) -> Row:
    """`count` devices; `loading` is what each one's machine loads (None: taken to be quick enough), `one` the images a second of one."""
    images = passes(work.batch, count)  # the largest share: the one that the others wait for
    working = passes(work.batch, images)
    rounds = passes(images, work.micro_batch)
    through_network = pace.images(images, work.micro_batch)
    gradients = 4 * network.trainable
    waiting = exposed(gradients, rates, working, through_network / rounds)
    compute = through_network + pace.update + (pace.exchange if working > 1 else 0.0)
    alone = compute + waiting
    step = loading.joined(alone, images) if loading else alone

    def asked(split: int) -> float:
        each = passes(passes(split, work.evaluation_batch), count) * work.evaluation_batch if split else 0
        seconds = each * pace.evaluation
        return loading.joined(seconds, each) if loading else seconds

    validations = passes(work.steps, work.steps_per_epoch)
    seconds = work.steps * step + validations * asked(work.val) + asked(work.test)
    rate = work.batch / step
    first = rate if count == 1 else one or row(network, work, pace, rates, 1, loading).images_per_second
    held = memory(network, rates.rest, min(images, work.micro_batch), images, work.evaluation_batch).total
    limit: Literal["compute", "all-reduce", "batch", "data"] = "compute"
    if step > 2 * alone:
        limit = "data"
    elif count > work.batch:
        limit = "batch"
    elif waiting > 0.1 * step:
        limit = "all-reduce"
    return Row(
        devices=count,
        working=working,
        images=images,
        passes=rounds,
        step_seconds=step,
        compute_seconds=compute,
        all_reduce_bytes=ring_bytes(gradients, working),
        all_reduce_seconds=ring_bytes(gradients, working) / rates.between(working),
        exposed_seconds=waiting,
        images_per_second=rate,
        efficiency=rate / count / first,
        epoch_seconds=work.steps_per_epoch * step + asked(work.val),
        seconds=seconds,
        device_hours=count * seconds / 3600,
        memory_bytes=held,
        fits=held <= USABLE * rates.memory,
        limited_by=limit,
        arithmetic=count > COUNTS[-1],
    )


def rows(network: Network, work: Work, pace: Pace, rates: Rates, count: int, loading: Loading | None = None) -> list[Row]:
    """1, 2, 4, ... 64 devices, on to 4,096, and `count`."""
    one = row(network, work, pace, rates, 1, loading)
    counts = sorted({*COUNTS, *ARITHMETIC, count} - {1})
    return [one, *(row(network, work, pace, rates, n, loading, one.images_per_second) for n in counts)]


def document(network: Network, work: Work, pace: Pace, rates: Rates, count: int, loader: Loading | None, here: bool) -> dict[str, Any]:
    """The part of `plan`'s JSON document that is arithmetic. `loader` is this machine's, which limits only devices that are `here`."""
    found = rows(network, work, pace, rates, count, loader if here else None)
    asked = next(r for r in found if r.devices == count)
    held = memory(network, rates.rest, min(asked.images, work.micro_batch), asked.images, work.evaluation_batch)
    needed = needs(asked, work)
    return {
        "memory": held._asdict() | {"training": held.training, "total": held.total, "of": rates.memory, "usable": USABLE * rates.memory},
        "fits": asked.fits,
        "largest_batch": largest(network, rates.rest, USABLE * rates.memory),
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


def needs(row: Row, work: Work) -> float:
    """Images a second that the devices would take, had nothing to be waited for."""
    return work.batch / (row.compute_seconds + row.exposed_seconds)
