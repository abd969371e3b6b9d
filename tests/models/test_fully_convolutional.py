"""Classifiers as convolutions: equal to the network at its own size, and crop by crop on larger images."""

from collections import OrderedDict
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from helpers.networks import DEEP, HUGE, calibrate_batch_norm, randomize_weights, small_model
from torch import Tensor, nn

from convatlas import models
from convatlas.classifier import Classifier
from convatlas.data.transforms.preprocessing import center_crop_preprocessing
from convatlas.errors import UsageError
from convatlas.models import Network
from convatlas.models.fully_convolutional import FullyConvolutional

CLASSIFIERS = [name for name in models.list_models() if models.get_entry(name).task == "classification"]


@pytest.mark.parametrize(
    ("name", "edition"),
    [
        pytest.param(name, edition, marks=pytest.mark.slow) if name in (*HUGE, *DEEP) else (name, edition)
        for name in CLASSIFIERS
        for edition in models.editions(name)
    ],
)
def test_at_its_own_size_it_equals_the_network(name: str, edition: str) -> None:
    model, images = small_model(name, edition=edition)
    images = images.double()
    calibrate_batch_norm(randomize_weights(model.double()), images)
    with torch.no_grad():
        logits = model(images)
        dense = models.to_dense(model)
        scores = dense(images)
        assert scores.shape == (*logits.shape, 1, 1)
        atol = 1e-6 * logits.abs().max().item()
        torch.testing.assert_close(scores[:, :, 0, 0], logits, rtol=0, atol=atol)
        score_map = dense(F.pad(images, (20, 44, 0, 64), value=0.5))
        assert score_map.shape[:2] == logits.shape
        assert score_map.shape[2] > 1
        assert score_map.shape[3] > 1
        assert score_map.isfinite().all()


@pytest.mark.parametrize(("name", "edition"), [("vgg16", "torchvision"), ("resnet18", "paper")])
def test_its_own_size_is_the_papers_or_the_classifiers(name: str, edition: str) -> None:
    model = models.create_model(name, edition, num_classes=3, width=0.05)
    assert models.to_dense(model).size == (224, 224)
    preprocessing = center_crop_preprocessing(3, (64, 96))
    classifier = Classifier.from_module(model, ["a", "b", "c"], preprocessing, mean=0.5, std=0.5)
    dense = models.to_dense(classifier)
    assert dense.size == (64, 96)
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        scores = dense(images)[:, :, 0, 0]
        torch.testing.assert_close(scores, classifier.model(images), rtol=1e-4, atol=1e-4)
    with pytest.raises(
        UsageError, match=f"{name} as convolutions takes images of at least 64x96, .* not 64x95"
    ):
        dense(images[..., 1:])


def test_making_it_changes_nothing_in_a_network_in_training() -> None:
    model, images = small_model("vgg11_bn")
    model.train().get_submodule("norm1_1").eval()  # frozen
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    dense = models.to_dense(model)
    assert [module.training for module in model.modules()] == modes
    assert dense.training
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    # it is a module like any other: it moves as a whole, and gradients reach all its weights
    dense.double()(images.double()).sum().backward()
    assert len(list(dense.parameters())) == len(list(model.parameters()))
    assert all(parameter.grad is not None for parameter in dense.parameters())


def test_it_shares_the_networks_weights() -> None:
    model, images = small_model("vgg11")
    images = images.double()
    dense = models.to_dense(model.double().eval())
    with torch.no_grad():
        model.get_parameter("fc6.weight").mul_(0.5)
        model.get_parameter("conv1_1.bias").add_(1)
        torch.testing.assert_close(dense(images)[:, :, 0, 0], model(images), rtol=1e-4, atol=1e-4)


class Unpadded(Network):
    """Convolutions and poolings without padding, then a head. The stride is 4; images of 30 give a grid of
    5x5."""

    def __init__(self, head: OrderedDict[str, nn.Module]):
        super().__init__(in_chans=2)
        self.conv1 = nn.Conv2d(2, 6, 3)
        self.relu1 = nn.ReLU()
        self.pool1 = nn.MaxPool2d(2)
        self.conv2 = nn.Conv2d(6, 8, 3)
        self.norm2 = nn.BatchNorm2d(8)
        self.pool2 = nn.MaxPool2d(2)
        self.conv3 = nn.Conv2d(8, 8, 2)
        for name, layer in head.items():
            self.add_module(name, layer)


def with_fully_connected_head() -> Network:
    layers = {"flatten": nn.Flatten(), "drop6": nn.Dropout(0.9), "fc6": nn.Linear(8 * 25, 16)}
    return Unpadded(OrderedDict(layers, relu6=nn.ReLU(), fc7=nn.Linear(16, 5)))


def with_global_average() -> Network:
    return Unpadded(OrderedDict(avgpool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), fc=nn.Linear(8, 5)))


def with_overlapping_average() -> Network:
    """As the editions of torchvision: a grid of 5x5 becomes one of 3x3, with overlapping windows."""
    layers = {"avgpool": nn.AdaptiveAvgPool2d(3), "flatten": nn.Flatten(), "fc6": nn.Linear(8 * 9, 16)}
    return Unpadded(OrderedDict(layers, relu6=nn.ReLU(), fc7=nn.Linear(16, 5)))


def scores_by_crop(model: nn.Module, images: Tensor, size: int, stride: int) -> Tensor:
    """The network's logits of every crop: (n, classes, rows, columns)."""
    rows, columns = ((side - size) // stride + 1 for side in images.shape[2:])
    crops = [
        images[:, :, i * stride : i * stride + size, j * stride : j * stride + size]
        for i in range(rows)
        for j in range(columns)
    ]
    return torch.stack([model(crop) for crop in crops], dim=2).view(len(images), -1, rows, columns)


@pytest.mark.parametrize("build", [with_fully_connected_head, with_global_average, with_overlapping_average])
def test_on_a_larger_image_it_equals_the_network_crop_by_crop(build: Callable[[], Network]) -> None:
    model = build()
    randomize_weights(model).eval()
    images = torch.randn(2, 2, 43, 58, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = scores_by_crop(model, images, 30, 4)
        assert expected.shape == (2, 5, 4, 8)
        torch.testing.assert_close(
            FullyConvolutional(model, (30, 30))(images), expected, rtol=1e-5, atol=1e-5
        )


def test_lenet5_which_never_pads_equals_itself_crop_by_crop() -> None:
    model = models.create_model("lenet5").eval()
    images = torch.randn(3, 1, 45, 61, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = scores_by_crop(model, images, 32, 4)
        assert expected.shape == (3, 10, 4, 8)
        torch.testing.assert_close(
            FullyConvolutional(model, (32, 32))(images), expected, rtol=1e-4, atol=1e-3
        )


def test_vggs_fully_connected_layers_take_every_window_of_the_last_map() -> None:
    model, small_images = small_model("vgg16")
    randomize_weights(model).eval()
    images = torch.randn(2, 3, 160, 96, generator=torch.Generator().manual_seed(0))
    assert small_images.shape[2:] == (64, 64)
    dense = FullyConvolutional(model, (64, 64))
    with torch.no_grad():
        maps = images
        for name, layer in model.named_children():
            if name == "flatten":
                break
            maps = layer(maps)
        assert maps.shape[2:] == (5, 3)
        scores = dense(images)
        for i in range(4):
            for j in range(2):
                x = maps[:, :, i : i + 2, j : j + 2].flatten(1)
                for name in ("fc6", "relu6", "fc7", "relu7", "fc8"):
                    x = model.get_submodule(name)(x)
                torch.testing.assert_close(scores[:, :, i, j], x, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("value", [nn.Linear(2, 2), "resnet18", with_global_average()])
def test_what_is_no_classifier_of_the_atlas_is_refused(value: object) -> None:
    with pytest.raises(
        UsageError, match=r"the classifier should be a network of create_model or a Classifier"
    ):
        models.to_dense(value)


@pytest.mark.parametrize("name", ["unet", "fcn32s"])
def test_a_segmentation_network_is_refused(name: str) -> None:
    model, _ = small_model(name)
    with pytest.raises(UsageError, match=f"{name} does not end in a vector of class scores"):
        models.to_dense(model)
