"""Seconds that a step takes on one device: from measurements, or by the roofline."""

from collections.abc import Sequence

from convatlas.runtime.hardware import DeviceSpec
from convatlas.storage.records import Record
from convatlas.training.planning.workload import ModelCost

# Of the roofline by published peaks, at most: NVIDIA's own scripts train ResNet-50 at 0.5 to 0.9 of it
# (tests/training/planning/test_step_time.py)
ASSUMED_SHARE = 0.7


class StepTime(Record, frozen=True, kw_only=True):
    """Seconds: a training pass of k images takes fixed + k per_image, then `update` for the optimiser;
    `evaluation` an image.

    Where gradients are exchanged, a step takes `exchange` more, beside the transfer: to gather them, and to
    wait for the slowest rank.
    """

    fixed: float
    per_image: float
    update: float
    evaluation: float
    exchange: float = 0.0

    def passes(self, images: int, micro_batch: int) -> float:
        """Seconds for `images` in passes of at most `micro_batch`."""
        return self.fixed * num_passes(images, micro_batch) + self.per_image * images


class LoaderRate(Record, frozen=True):
    """The images a second that one machine loads, and whether while the device computes."""

    rate: float
    overlaps: bool

    def step_seconds(self, seconds: float, images: int) -> float:
        """Seconds for work on `images` that must be loaded too."""
        loading = images / self.rate
        return max(seconds, loading) if self.overlaps else seconds + loading


def num_passes(images: int, micro_batch: int) -> int:
    return -(-images // micro_batch)


def roofline(cost: ModelCost, device: DeviceSpec, images: int) -> float:
    """The least seconds of one forward of `images`: of each layer the longer of its FLOPs and its bytes at
    their peak rates.

    Williams, Waterman, Patterson 2009, doi:10.1145/1498765.1498785. Weights are read once for all images.
    """
    peak = device.flops[cost.precision]
    seconds = 0.0
    for layer in cost.layers:
        moved = layer.weights + images * (layer.moved - layer.weights)
        seconds += max(images * layer.flops / peak, moved / device.bandwidth)
    return seconds


def training_roofline(cost: ModelCost, device: DeviceSpec, images: int) -> float:
    """The least seconds of forward and backward: three times the forward."""
    return 3 * roofline(cost, device, images)


def roofline_step_time(cost: ModelCost, device: DeviceSpec, images: int, share: float) -> StepTime:
    """By the roofline, of which `share` is attained: exact for 1 and `images`, else linear."""
    one = training_roofline(cost, device, 1) / share
    all_images = training_roofline(cost, device, images) / share
    per_image = (all_images - one) / (images - 1) if images > 1 else one
    updated = 4 * cost.trainable * (3 + 2 * cost.states)
    averaged = 3 * (4 * cost.params + cost.buffers) if cost.averaged else 0
    return StepTime(
        fixed=max(0.0, one - per_image),
        per_image=per_image,
        update=(updated + averaged) / device.bandwidth / share,
        evaluation=roofline(cost, device, images) / images / share,
    )


def fit_line(measurements: Sequence[tuple[int, float]]) -> tuple[float, float]:
    """(fixed, per image), not negative, from the smallest and largest of (images, seconds)."""
    few, fast = min(measurements)
    many, slow = max(measurements)
    if few == many:
        return 0.0, slow / many
    per_image = min(max((slow - fast) / (many - few), 0.0), slow / many)
    return slow - per_image * many, per_image
