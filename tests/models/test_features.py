"""Intermediate maps and the penultimate vector, without editing the network."""

import pytest
import torch
from helpers.networks import HUGE, small

from convatlas import models
from convatlas.errors import UsageError

NAMES = [name for name in models.list_models() if name not in HUGE and models.get_entry(name).task == "classification"]


@pytest.mark.parametrize("name", NAMES)
def test_the_penultimate_vector_is_what_the_last_layer_classifies(name: str) -> None:
    model, images = small(name)
    model.eval()
    found = models.features(model, images)["penultimate"]
    assert found.dim() == 2
    assert torch.equal(model.get_submodule(model.classifier)(found), model(images))


def test_maps_come_by_module_path_as_they_were_before_an_activation_in_place() -> None:
    model, images = small("vgg11")
    found = models.features(model, images, ["conv1_1", "relu1_1", "pool5"])
    assert (found["conv1_1"] < 0).any()
    assert torch.equal(found["conv1_1"].relu(), found["relu1_1"])
    assert found["pool5"].shape == (3, 128, 2, 2)


def test_maps_of_an_auxiliary_head_are_computed_where_they_are_asked_for() -> None:
    model, images = small("googlenet")
    model.eval()
    assert torch.equal(models.features(model, images, ["aux1.fc2"])["aux1.fc2"], model.training_outputs(images)["aux1"])


def test_the_network_is_left_as_it_was() -> None:
    model, images = small("resnet18")
    models.features(model, images, ["conv3_x.1", "penultimate"])
    with pytest.raises(UsageError, match=r"unknown module 'conv3_x.7': the nearest is"):
        models.features(model, images, ["conv3_x.7"])
    with pytest.raises(UsageError):
        models.features(model, images[0], ["conv3_x.1"])
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
