"""Bytes that a run needs on one device: arithmetic on analysed figures."""

from typing import NamedTuple

from convatlas.training.planning.workload import ModelCost

USABLE = 0.9  # of a device's memory: the rest is lost between the allocator's blocks


class MemoryEstimate(NamedTuple):
    """Bytes on one device."""

    reserved: int  # in use before the network comes
    weights: int
    gradients: int
    optimizer: int
    average: int
    weight_copies: int  # in the precision of the products
    activations: int  # saved for the backward pass
    activation_gradients: int
    batch: int  # images as they arrive
    evaluation: int  # needed by evaluation, when gradients and the four before this do not exist

    @property
    def training(self) -> int:
        return sum(self) - self.evaluation

    @property
    def evaluating(self) -> int:
        return self.reserved + self.weights + self.optimizer + self.average + self.evaluation

    @property
    def total(self) -> int:
        return max(self.training, self.evaluating)


def estimate_memory(
    cost: ModelCost,
    reserved: int,
    micro_batch: int,
    batch: int = 0,
    evaluation_batch: int = 0,
) -> MemoryEstimate:
    """Training in passes of `micro_batch` images, of steps of `batch` (0: as many), and evaluation."""
    weights = 4 * cost.params + cost.buffers
    return MemoryEstimate(
        reserved=reserved,
        weights=weights,
        gradients=4 * cost.trainable,
        optimizer=4 * cost.trainable * cost.states,
        average=weights if cost.averaged else 0,
        weight_copies=cost.weight_copy_bytes,
        activations=micro_batch * cost.saved_activation_bytes,
        activation_gradients=micro_batch * cost.activation_gradient_bytes,
        batch=(batch or micro_batch) * cost.image_bytes,
        evaluation=cost.weight_copy_bytes + evaluation_batch * (cost.inference_bytes + cost.image_bytes),
    )


def max_micro_batch(cost: ModelCost, reserved: int, memory: float) -> int:
    """The most images that one pass can hold in `memory` bytes; 0 where not even one fits."""
    empty = estimate_memory(cost, reserved, 0).training
    one = estimate_memory(cost, reserved, 1).training
    return max(0, int((memory - empty) // (one - empty)))


def max_eval_batch(cost: ModelCost, reserved: int, memory: float) -> int:
    """The most images of one batch of evaluation; 0 where not even one fits."""
    empty = estimate_memory(cost, reserved, 0, evaluation_batch=0).evaluating
    one = estimate_memory(cost, reserved, 0, evaluation_batch=1).evaluating
    return max(0, int((memory - empty) // (one - empty)))
