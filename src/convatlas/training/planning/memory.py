"""Bytes that a run needs on one device: arithmetic, of figures that were analysed."""

from typing import NamedTuple

from convatlas.training.planning.workload import Network

USABLE = 0.9  # of a device's memory: the rest is lost between the blocks of the allocator


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
