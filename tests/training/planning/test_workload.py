"""The figures of a run that its plan needs."""

import pytest
import torch
from helpers.planning import resnet_run

import convatlas as ca
from convatlas import models
from convatlas.optim import optimizers
from convatlas.training.planning.workload import model_cost, state_tensors
from convatlas.training.resolve import resolve_run

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("optimizer", "count"),
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
def test_the_optimisers_tensors_for_a_parameter_are_counted(
    optimizer: optimizers.Optimizer, count: int
) -> None:
    assert state_tensors(optimizer) == count


def test_frozen_modules_have_no_gradients_and_save_less() -> None:
    run = resolve_run(resnet_run(), CPU).run
    trained = model_cost(run, "fp32")
    frozen = model_cost(run.replace(frozen=("conv1", "conv2_x")), "fp32")
    assert frozen.params == trained.params
    assert frozen.trainable < trained.trainable
    assert frozen.saved_activation_bytes < trained.saved_activation_bytes


def test_auxiliary_heads_count_towards_the_cost() -> None:
    architecture = models.get_architecture("inception_v3", width=0.25, image_size=139)
    run = ca.Run(model=architecture, data="digits", recipe="small")
    run = resolve_run(run.replace(recipe=run.recipe.replace(batch=8)), CPU).run
    without_heads = run.replace(recipe=run.recipe.replace(auxiliary={}))
    assert model_cost(run, "fp32").macs > model_cost(without_heads, "fp32").macs
