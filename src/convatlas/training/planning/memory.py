"""Bytes that a run needs on one device: arithmetic, of figures that were analysed."""

from typing import NamedTuple

from convatlas.training.planning.workload import ModelCost

USABLE = 0.9  # of a device's memory: the rest is lost between the blocks of the allocator


class MemoryEstimate(NamedTuple):
    """Bytes on one device."""

    reserved: int  # there before the network comes
    weights: int
    gradients: int
    optimizer: int
    average: int
    weight_copies: int  # of the weights, in the precision of the products
    activations: int  # kept for the backward pass
    activation_gradients: int
    batch: int  # images as they arrive
    evaluation: int  # what evaluation needs, when gradients and the four before it are not there

    @property
    def training(self) -> int:
        return sum(self) - self.evaluation

    @property
    def evaluating(self) -> int:
        return self.reserved + self.weights + self.optimizer + self.average + self.evaluation

    @property
    def total(self) -> int:
        return max(self.training, self.evaluating)


def estimate_memory(network: ModelCost, rest: int, images: int, arriving: int = 0, evaluation_batch: int = 0) -> MemoryEstimate:
    """What training with passes of `images` needs, of steps of `arriving` (0: as many), and evaluation in batches of `evaluation_batch`."""
    own = 4 * network.params + network.buffers
    return MemoryEstimate(
        reserved=rest,
        weights=own,
        gradients=4 * network.trainable,
        optimizer=4 * network.trainable * network.states,
        average=own if network.averaged else 0,
        weight_copies=network.weight_copy_bytes,
        activations=images * network.saved_activation_bytes,
        activation_gradients=images * network.activation_gradient_bytes,
        batch=(arriving or images) * network.image_bytes,
        evaluation=network.weight_copy_bytes + evaluation_batch * (network.inference_bytes + network.image_bytes),
    )


def max_micro_batch(network: ModelCost, rest: int, room: float) -> int:
    """The most images that one pass can hold in `room` bytes of memory; 0 where not even one fits."""
    none, one = (estimate_memory(network, rest, images).training for images in (0, 1))
    return max(0, int((room - none) // (one - none)))


def max_eval_batch(network: ModelCost, rest: int, room: float) -> int:
    """The most images of one batch of evaluation; 0 where not even one fits."""
    none, one = (estimate_memory(network, rest, 0, evaluation_batch=images).evaluating for images in (0, 1))
    return max(0, int((room - none) // (one - none)))
