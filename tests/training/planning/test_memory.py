"""The terms of memory against real tensors."""

from typing import Any

import pytest
import torch
from helpers.planning import networks, resnet_run
from helpers.small_runs import small_run
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from convatlas.optim.ema import ExponentialAverage
from convatlas.runtime.device import Precision
from convatlas.runtime.runtime import Runtime
from convatlas.training.planning import workload
from convatlas.training.planning.memory import estimate_memory, max_micro_batch
from convatlas.training.planning.profiler import random_batch
from convatlas.training.planning.workload import ModelCost
from convatlas.training.resolve import resolve_run
from convatlas.training.run import Run

CPU = torch.device("cpu")


def kept(run: Run, precision: Precision, images: int) -> int:
    """Bytes of the tensors, the module's own left out, that a real pass keeps for the backward pass."""
    objective = workload.untrained(run).train()
    own = {t.untyped_storage().data_ptr() for t in (*objective.parameters(), *objective.buffers())}
    sizes, held = dict[int, int](), list[Tensor]()

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            held.append(tensor)
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    batch, _ = random_batch(run, images)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t), Runtime(CPU, precision, threads=1).autocast():
        objective(batch.images, batch.targets)
    return sum(sizes.values())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("make", [small_run, resnet_run])
def test_the_activations_are_those_that_autograd_keeps(make: Any, precision: Precision) -> None:
    run, _ = resolve_run(make(), CPU)
    held = estimate_memory(workload.model_cost(run, precision), 0, 16)
    assert held.activations + held.weight_copies == pytest.approx(kept(run, precision, 16), rel=0.05)


@pytest.mark.parametrize("make", [small_run, resnet_run])
def test_weights_gradients_and_the_optimisers_state_are_counted_exactly(make: Any) -> None:
    run, _ = resolve_run(make(), CPU)
    run = run.replace(recipe=run.recipe.replace(average=ExponentialAverage()))
    objective = workload.untrained(run)
    optimizer = run.recipe.optimizer.build(objective.model)
    for p in objective.model.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    held = estimate_memory(workload.model_cost(run, "fp32"), 7, 0)
    tensors = [*objective.model.parameters(), *objective.model.buffers()]
    assert held.weights == sum(t.nbytes for t in tensors)
    assert held.average == held.weights
    assert held.gradients == sum(p.grad.nbytes for p in objective.model.parameters() if p.grad is not None)
    assert held.optimizer == sum(
        t.nbytes for state in optimizer.state.values() for t in state.values() if isinstance(t, Tensor) and t.dim()
    )
    assert held.total == held.training == 7 + 2 * held.weights + held.gradients + held.optimizer + held.weight_copies


@given(networks(), st.integers(0, 10**9), st.integers(0, 10**12))
def test_the_largest_batch_is_the_largest(n: ModelCost, rest: int, room: int) -> None:
    most = max_micro_batch(n, rest, room)
    assert estimate_memory(n, rest, most + 1).training > room
    assert most == 0 or estimate_memory(n, rest, most).training <= room
