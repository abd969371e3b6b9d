"""The objective: a loss whose forward can be undone, an average of the weights, modules that stay frozen."""

import pytest
import torch

import convatlas as ca
from convatlas import models
from convatlas.data.transforms.normalize import Normalizer
from convatlas.optim.ema import ExponentialMovingAverage
from convatlas.optim.losses import CrossEntropy
from convatlas.training.objective import Objective, freeze

IMAGES = torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
TARGETS = torch.arange(8)


def make_objective(ema: ExponentialMovingAverage | None = None, frozen: tuple[str, ...] = ()) -> Objective:
    model = models.create_model("resnet20_cifar", width=0.25)
    normalizer = Normalizer(torch.zeros(3, 1, 1), torch.ones(3, 1, 1))
    run = ca.Run(model="resnet20_cifar", data="cifar10", frozen=frozen)
    return Objective(model, normalizer, CrossEntropy(), ema=ema, frozen=freeze(run, model)).train()


def test_a_step_not_taken_leaves_the_running_statistics_as_they_were() -> None:
    objective = make_objective()
    model = objective.model
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    objective.snapshot_statistics()
    objective(IMAGES, TARGETS)
    assert any(not torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())
    objective.restore_statistics()
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())


@pytest.mark.parametrize("ema", [None, ExponentialMovingAverage(decay=0.5)], ids=["plain", "average"])
def test_another_objective_continues_with_the_weights_of_a_checkpoint(
    ema: ExponentialMovingAverage | None,
) -> None:
    objective = make_objective(ema)
    with torch.no_grad():
        objective.model.get_parameter("fc.weight").mul_(2)
    objective.update_ema()
    weights = {name: tensor.clone() for name, tensor in objective.weights().items()}
    assert {name.split(".")[0] for name in weights} == ({"model", "ema"} if ema else {"model"})
    torch.manual_seed(1)
    other = make_objective(ema)
    assert not torch.equal(other.weights()["model.fc.weight"], weights["model.fc.weight"])
    other.load_weights(weights | {"optimizer.0.momentum_buffer": torch.zeros(1)})
    assert other.weights().keys() == weights.keys()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in other.weights().items())


def test_frozen_modules_stay_in_evaluation_mode_while_others_train() -> None:
    objective = make_objective(frozen=("conv1",))
    frozen = objective.model.get_submodule("conv1")
    assert not any(module.training for module in frozen.modules())
    assert not any(parameter.requires_grad for parameter in frozen.parameters())
    assert objective.model.get_submodule("conv2_x").training
