"""What Python callers try first, and the sentence that they get where it is not what a function takes."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import convatlas as ca
from convatlas.errors import UsageError

atlas: Any = ca  # whose types are not checked here
IMAGES = torch.zeros(1, 1, 32, 32)


@pytest.fixture(scope="module")
def lenet() -> nn.Module:
    return ca.create_model("lenet5")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda m: atlas.Run(model=nn.Linear(2, 2), data="digits"),
            "takes no Linear: give a name of",
        ),
        (lambda m: atlas.Run(model="lenet5", data=3), "data of a run should be a data set's name"),
        (
            lambda m: atlas.Run(model="lenet5", data="digits", recipe=3),
            "a recipe's name, not an int",
        ),
        (lambda m: atlas.Run(model="lenet5", data="digits", seed="a"), "seed of a run: Expected `int`"),
        (lambda m: atlas.train("lenet5"), "should be a run, as in ca.train"),
        (lambda m: atlas.load_weights(m, 3), "the weights should be a file, a run's folder or a state dict"),
        (lambda m: atlas.load_weights(m, m), r"a state dict \(module.state_dict\(\)\), not a LeNet5"),
        (lambda m: atlas.load_weights("resnet50", "x.pth"), "load_weights needs a network of create_model"),
        (lambda m: atlas.create_model("resnet5"), "unknown network 'resnet5': the nearest is 'resnet50'"),
        (lambda m: atlas.create_model(3), "expected the name of a network, not 3"),
        (lambda m: atlas.create_model("resnet50", 10), "expected the name of an edition of resnet50, not 10"),
        (lambda m: atlas.create_model("resnet50", pretrained=True), "no weights come with resnet50"),
        (lambda m: atlas.create_model("resnet50", classes=10), "the nearest is 'num_classes'"),
        (lambda m: atlas.analyze("resnet50", (3, 224, 224)), r"build it with ca.create_model\('resnet50'\)"),
        (lambda m: atlas.analyze(m), r"analyze needs an input: .* ca.analyze\(model, \(3, 224, 224\)\)"),
        (lambda m: atlas.load(m), "what load reads should be a run's folder"),
        (lambda m: atlas.evaluate(m, "digits"), "what evaluate takes should be a run's folder"),
        (lambda m: atlas.inference.engine("lenet5", IMAGES), "expected an nn.Module, not a str"),
        (lambda m: atlas.inference.engine(m, (1, 32, 32)), "the example should be images .*, not a tuple"),
        (
            lambda m: atlas.visualization.grad_cam(m, IMAGES.byte(), 3),
            "expected normalised images, a float tensor",
        ),
        (lambda m: atlas.visualization.grad_cam("a.jpg", IMAGES, 3), "expected an nn.Module, not a str"),
        (lambda m: atlas.visualization.first_filters("x"), "the model should be an nn.Module"),
        (lambda m: atlas.visualization.top_activations(m), "the classifier should be a Classifier"),
        (
            lambda m: m(np.zeros((1, 1, 32, 32))),
            "lenet5 takes normalised images as a float tensor .* ndarray",
        ),
        (lambda m: m(IMAGES.byte()), "lenet5 takes normalised images as a float tensor .* torch.uint8"),
        (lambda m: atlas.export.export_classifier(m, "onnx", "m.onnx"), "takes should be a Classifier or"),
    ],
)
def test_a_wrong_argument_is_one_sentence(
    call: Callable[[Any], object], message: str, lenet: nn.Module
) -> None:
    with pytest.raises(UsageError, match=message) as raised:
        call(lenet)
    assert "\n" not in str(raised.value)
