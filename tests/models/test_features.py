"""Intermediate maps and the penultimate vector, without editing the network."""

import pytest
import torch
from helpers.networks import HUGE, small_model

from convatlas import models
from convatlas.errors import UsageError

NAMES = [
    name
    for name in models.list_models()
    if name not in HUGE and models.get_entry(name).task == "classification"
]


@pytest.mark.parametrize("name", NAMES)
def test_the_penultimate_vector_is_what_the_last_layer_classifies(name: str) -> None:
    model, images = small_model(name)
    model.eval()
    vector = models.features(model, images)["penultimate"]
    assert vector.dim() == 2
    assert torch.equal(model.get_submodule(model.classifier)(vector), model(images))


def test_an_in_place_activation_does_not_change_the_maps_before_it() -> None:
    model, images = small_model("vgg11")
    maps = models.features(model, images, ["conv1_1", "relu1_1", "pool5"])
    assert (maps["conv1_1"] < 0).any()
    assert torch.equal(maps["conv1_1"].relu(), maps["relu1_1"])
    assert maps["pool5"].shape == (3, 128, 2, 2)


def test_maps_of_an_auxiliary_head_are_computed_on_request() -> None:
    model, images = small_model("googlenet")
    model.eval()
    logits = models.features(model, images, ["aux1.fc2"])["aux1.fc2"]
    assert torch.equal(logits, model.training_outputs(images)["aux1"])


def test_features_leaves_no_hooks_behind() -> None:
    model, images = small_model("resnet18")
    models.features(model, images, ["conv3_x.1", "penultimate"])
    with pytest.raises(UsageError, match=r"unknown module 'conv3_x.7': the nearest is"):
        models.features(model, images, ["conv3_x.7"])
    with pytest.raises(UsageError):
        models.features(model, images[0], ["conv3_x.1"])
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
