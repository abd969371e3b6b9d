"""A network of the user's own loop becomes a classifier; other modules are refused in a sentence."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import convatlas as ca
from convatlas.classifier import Classifier
from convatlas.errors import UsageError, UserError

CLASSES = ["ant", "bee", "wasp"]
GREY: dict[str, Any] = {"mean": 0.1307, "std": 0.3081}


def lenet(**arguments: Any) -> ca.models.Network:
    return ca.create_model("resnet20_cifar", width=0.25, in_chans=1, **arguments)


def test_a_fine_tuned_network_is_saved_and_loaded(tmp_path: Path) -> None:
    model = lenet()
    model.fc = nn.Linear(16, len(CLASSES))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    loss = nn.functional.cross_entropy(model(torch.randn(6, 1, 32, 32)), torch.arange(6) % 3)
    torch.autograd.backward(loss)
    optimizer.step()
    classifier = Classifier.from_module(model, CLASSES, 32, **GREY)
    assert model.training  # the caller's module stays as it was
    file = classifier.save(tmp_path / "insects")
    assert file == tmp_path / "insects" / "model.safetensors"
    loaded = ca.load(tmp_path / "insects")
    assert loaded.metadata.provenance == {"origin": "saved from a user's module"}
    assert loaded.metadata.classes == tuple(CLASSES)
    assert loaded.metadata.network.arguments["num_classes"] == 3
    images = torch.randint(0, 256, (2, 1, 32, 32), dtype=torch.uint8)
    with torch.inference_mode():
        expected = model.eval()((images / 255 - GREY["mean"]) / GREY["std"])
    torch.testing.assert_close(loaded.model(loaded.normalizer(images)), expected)


def test_a_classifier_fine_tuned_further_keeps_its_preprocessing(trained: Classifier, tmp_path: Path) -> None:
    again = Classifier.from_module(
        trained.model,
        trained.metadata.classes,
        trained.metadata.preprocessing,
        normalizer=trained.normalizer,
        data="digits",
    )
    again.save(tmp_path / "again.safetensors")
    loaded = ca.load(tmp_path / "again.safetensors")
    assert loaded.weights_sha256 == trained.weights_sha256
    assert loaded.training_data == "digits"


@pytest.mark.parametrize(
    "wrap", [partial(torch.compile, backend="eager"), torch.optim.swa_utils.AveragedModel, nn.DataParallel]
)
def test_wrappers_are_taken_off(wrap: Any) -> None:
    model = lenet(num_classes=3)
    classifier = Classifier.from_module(wrap(model), CLASSES, 32, **GREY)
    assert torch.equal(classifier.model.state_dict()["fc.weight"], model.state_dict()["fc.weight"])


def test_what_evaluation_does_not_compute_with_may_differ() -> None:
    model = lenet(num_classes=3, dropout=0.5)
    model.dropout.p = 0.1  # type: ignore[union-attr]
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.5
    synchronized = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
    Classifier.from_module(synchronized, CLASSES, 32, **GREY)


def replaced(path: str, module: nn.Module) -> nn.Module:
    model = lenet(num_classes=3)
    model.set_submodule(path, module)
    return model


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (nn.Linear(4, 3), "no name of the atlas describes a Linear: expected a network of ca.create_model"),
        (
            replaced("fc", nn.Linear(16, 4)),
            r"3 classes: fc.weight is of shape \(4, 16\), and of shape \(3, 16\)",
        ),
        (replaced("relu", nn.GELU()), "relu is GELU.*, and ReLU.* in that"),
        (replaced("fc", nn.Sequential(nn.Linear(16, 3))), "fc.weight is absent"),
        (ca.create_model("unet", width=0.1), "unet labels every pixel"),
    ],
)
def test_a_module_that_no_name_describes_is_refused(module: nn.Module, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Classifier.from_module(module, CLASSES, 32, **GREY)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mean": None}, r"say how the pixels were normalised in training: mean=\(\.\.\.\)"),
        ({"mean": 33.3, "std": 78.6}, "divide those of pixels from 0 to 255 by 255"),
        ({"mean": (0.1, 0.2)}, "one number, or one for each of the 1 channels"),
        ({"classes": "ant"}, "classes should be the list of their names"),
        ({"classes": ["ant", "ant", "bee"]}, "classes names 'ant' twice"),
        ({"classes": ["ant", "bee"]}, "for 2 classes: fc.weight is of shape"),
        ({"preprocessing": "imagenet"}, "preprocessing should be the size of the network's images"),
    ],
)
def test_wrong_descriptions_are_refused(arguments: dict[str, Any], message: str) -> None:
    correct: dict[str, Any] = {"classes": CLASSES, "preprocessing": 32} | GREY
    with pytest.raises(UsageError, match=message):
        Classifier.from_module(lenet(num_classes=3), **(correct | arguments))


def test_a_file_is_replaced_only_on_request(tmp_path: Path) -> None:
    classifier = Classifier.from_module(lenet(num_classes=3), CLASSES, 32, **GREY)
    file = classifier.save(tmp_path)
    with pytest.raises(UsageError, match="already exists: choose another place, or overwrite=True"):
        classifier.save(tmp_path)
    assert classifier.save(tmp_path, overwrite=True) == file


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    classifier = Classifier.from_module(lenet(num_classes=3), CLASSES, 32, **GREY)
    (tmp_path / "file").write_text("precious")
    with pytest.raises(UserError, match=r"cannot write .*file/model\.safetensors: "):
        classifier.save(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "precious"


def test_weights_that_are_not_finite_are_refused() -> None:
    model = lenet(num_classes=3)
    with torch.no_grad():
        model.get_parameter("fc.bias")[0] = float("nan")
    with pytest.raises(UsageError, match=r"fc\.bias holds values that are not finite"):
        Classifier.from_module(model, CLASSES, 32, **GREY)


def test_a_classifier_prints_as_one_line(trained: Classifier) -> None:
    text = f"{trained}"
    assert text.startswith(
        "<Classifier lenet5: 10 classes (0, 1, 2, ...), input 1x32x32, trained on digits, test"
    )
    assert "\n" not in text


def test_the_random_state_stays(digits: Tensor) -> None:
    model = lenet(num_classes=3)
    state = torch.get_rng_state()
    Classifier.from_module(model, CLASSES, 32, **GREY)
    assert torch.equal(torch.get_rng_state(), state)
