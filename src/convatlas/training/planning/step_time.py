"""Seconds that the work of a step takes on one device: from what was measured, or by the roofline."""

from collections.abc import Sequence

from convatlas.runtime.hardware import DeviceSpec
from convatlas.storage.records import Record
from convatlas.training.planning.workload import ModelCost

# Of the roofline by published peaks, at most: NVIDIA's own scripts train ResNet-50 at 0.5 to 0.9 of it (tests/training/planning/test_step_time.py)
ASSUMED_SHARE = 0.7


class StepTime(Record, frozen=True, kw_only=True):
    """Seconds: a training pass of k images takes fixed + k per_image; then `update` for the optimiser; `evaluation` an image. Where
    gradients are exchanged, a step takes `exchange` more, beside their travelling: to gather them, and to wait for the slowest."""

    fixed: float
    per_image: float
    update: float
    evaluation: float
    exchange: float = 0.0

    def images(self, count: int, micro_batch: int) -> float:
        """Seconds for `count` images in passes of at most `micro_batch`."""
        return self.fixed * num_passes(count, micro_batch) + self.per_image * count


class LoaderRate(Record, frozen=True):
    """How fast one machine makes batches, in images a second, and whether it does so while the device computes."""

    rate: float
    overlaps: bool

    def step_seconds(self, seconds: float, images: int) -> float:
        """Seconds for work on `images` that must be loaded, too."""
        return max(seconds, images / self.rate) if self.overlaps else seconds + images / self.rate


def num_passes(images: int, micro_batch: int) -> int:
    return -(-images // micro_batch)


def roofline(network: ModelCost, rates: DeviceSpec, images: int) -> float:
    """Seconds that one forward of `images` takes at least: of each layer the longer of its FLOPs and its bytes at their peak rates
    (Williams, Waterman, Patterson 2009, doi:10.1145/1498765.1498785). Weights are read once for all images."""
    peak, bandwidth = rates.flops[network.precision], rates.bandwidth
    return sum(
        max(images * layer.flops / peak, (layer.weights + images * (layer.moved - layer.weights)) / bandwidth) for layer in network.layers
    )


def training_roofline(network: ModelCost, rates: DeviceSpec, images: int) -> float:
    """Seconds that forward and backward take at least: three times the forward."""
    return 3 * roofline(network, rates, images)


def roofline_step_time(network: ModelCost, rates: DeviceSpec, images: int, share: float) -> StepTime:
    """By the roofline, of which `share` is attained: exact for passes of one image and of `images`, a straight line between them."""
    one, many = (training_roofline(network, rates, k) / share for k in (1, images))
    per_image = (many - one) / (images - 1) if images > 1 else one
    touched = 4 * network.trainable * (3 + 2 * network.states) + (3 * (4 * network.params + network.buffers) if network.averaged else 0)
    return StepTime(
        fixed=max(0.0, one - per_image),
        per_image=per_image,
        update=touched / rates.bandwidth / share,
        evaluation=roofline(network, rates, images) / images / share,
    )


def fit_line(sizes: Sequence[tuple[int, float]]) -> tuple[float, float]:
    """(fixed, per image) from measured (images, seconds), by the smallest size and the largest; neither is negative."""
    (few, quick), (many, slow) = min(sizes), max(sizes)
    if few == many:
        return 0.0, slow / many
    per_image = min(max((slow - quick) / (many - few), 0.0), slow / many)
    return slow - per_image * many, per_image
