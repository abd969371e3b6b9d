"""What is read off a run for its plan."""

import pytest
import torch
from helpers.planning import resnet_run

import convatlas as ca
from convatlas import models
from convatlas.optim import optimizers
from convatlas.training.planning import workload
from convatlas.training.resolve import resolve_run

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("optimizer", "states"),
    [
        (optimizers.SGD(lr=1), 0),
        (optimizers.SGD(lr=1, momentum=0.9), 1),
        (optimizers.SGD(lr=1, momentum=0.9, lr_in_velocity=True), 1),
        (optimizers.RMSProp(lr=1), 1),
        (optimizers.RMSProp(lr=1, momentum=0.9, eps_inside=True), 2),
        (optimizers.AdaGrad(), 1),
        (optimizers.AdaDelta(), 2),
        (optimizers.Adam(), 2),
        (optimizers.AdamW(lr=1), 2),
        (optimizers.Adamax(), 2),
        (optimizers.Nadam(), 2),
        (optimizers.AMSGrad(), 3),
        (optimizers.AMSGrad(corrected=True), 3),
        (optimizers.AdaBound(), 2),
    ],
    ids=repr,
)
def test_the_optimiser_says_what_it_keeps(optimizer: optimizers.Optimizer, states: int) -> None:
    assert workload.state_tensors(optimizer) == states


def test_what_is_frozen_has_no_gradient_and_keeps_less() -> None:
    run, _ = resolve_run(resnet_run(), CPU)
    whole, part = workload.model_cost(run, "fp32"), workload.model_cost(run.replace(frozen=("conv1", "conv2_x")), "fp32")
    assert part.params == whole.params
    assert part.trainable < whole.trainable
    assert part.saved_activation_bytes < whole.saved_activation_bytes


def test_auxiliary_heads_are_part_of_what_is_trained() -> None:
    run = ca.Run(model=models.get_architecture("inception_v3", width=0.25, image_size=139), data="digits", recipe="small")
    run, _ = resolve_run(run.replace(recipe=run.recipe.replace(batch=8)), CPU)
    without = run.replace(recipe=run.recipe.replace(auxiliary={}))
    assert workload.model_cost(run, "fp32").macs > workload.model_cost(without, "fp32").macs
