"""The terms of the memory estimate against real tensors."""

from collections.abc import Callable

import pytest
import torch
from helpers.planning import model_costs, resnet_run
from helpers.small_runs import small_run
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import convatlas as ca
from convatlas.optim.ema import ExponentialMovingAverage
from convatlas.runtime.device import Precision
from convatlas.runtime.runtime import Runtime
from convatlas.training.planning.memory import estimate_memory, max_eval_batch, max_micro_batch
from convatlas.training.planning.profiler import random_batch
from convatlas.training.planning.workload import ModelCost, model_cost, untrained_objective
from convatlas.training.resolve import resolve_run

CPU = torch.device("cpu")


def saved_bytes(run: ca.Run, precision: Precision, images: int) -> int:
    """Bytes of the tensors that a real pass saves for its backward, without the objective's own tensors."""
    objective = untrained_objective(run).train()
    parameters_and_buffers = (*objective.parameters(), *objective.buffers())
    objective_storages = {tensor.untyped_storage().data_ptr() for tensor in parameters_and_buffers}
    bytes_by_storage: dict[int, int] = {}
    saved: list[Tensor] = []  # alive, so that no storage is used twice

    def save(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in objective_storages:
            saved.append(tensor)
            bytes_by_storage[storage.data_ptr()] = storage.nbytes()
        return tensor

    batch, _ = random_batch(run, images)
    runtime = Runtime(CPU, precision, threads=1)
    with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor), runtime.autocast():
        objective(batch.images, batch.targets)
    return sum(bytes_by_storage.values())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("make_run", [small_run, resnet_run])
def test_the_activations_are_those_that_autograd_saves(
    make_run: Callable[[], ca.Run], precision: Precision
) -> None:
    run = resolve_run(make_run(), CPU).run
    memory = estimate_memory(model_cost(run, precision), 0, 16)
    estimate = memory.activations + memory.weight_copies
    assert estimate == pytest.approx(saved_bytes(run, precision, 16), rel=0.05)


@pytest.mark.parametrize("make_run", [small_run, resnet_run])
def test_weights_gradients_and_optimiser_state_are_exact(make_run: Callable[[], ca.Run]) -> None:
    run = resolve_run(make_run(), CPU).run
    run = run.replace(recipe=run.recipe.replace(ema=ExponentialMovingAverage()))
    model = untrained_objective(run).model
    optimizer = run.recipe.optimizer.build(model)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    state = [value for values in optimizer.state.values() for value in values.values()]
    memory = estimate_memory(model_cost(run, "fp32"), 7, 0)
    assert memory.weights == sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))
    assert memory.average == memory.weights
    assert memory.gradients == sum(p.grad.nbytes for p in model.parameters() if p.grad is not None)
    assert memory.optimizer == sum(t.nbytes for t in state if isinstance(t, Tensor) and t.dim())
    reserved_and_weights = 7 + memory.weights + memory.average + memory.weight_copies
    assert memory.training == reserved_and_weights + memory.gradients + memory.optimizer
    assert memory.total == memory.training


@given(model_costs(), st.integers(0, 10**9), st.integers(0, 10**12))
def test_the_largest_micro_batch_fits_and_one_more_does_not(
    cost: ModelCost, reserved: int, memory: int
) -> None:
    largest = max_micro_batch(cost, reserved, memory)
    assert estimate_memory(cost, reserved, largest + 1).training > memory
    assert largest == 0 or estimate_memory(cost, reserved, largest).training <= memory


@given(model_costs(), st.integers(0, 10**9), st.integers(0, 10**12))
def test_the_largest_evaluation_batch_fits_and_one_more_does_not(
    cost: ModelCost, reserved: int, memory: int
) -> None:
    largest = max_eval_batch(cost, reserved, memory)
    assert estimate_memory(cost, reserved, 0, evaluation_batch=largest + 1).evaluating > memory
    assert largest == 0 or estimate_memory(cost, reserved, 0, evaluation_batch=largest).evaluating <= memory
