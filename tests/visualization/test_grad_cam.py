"""Grad-CAM: against its equations, and its promises for any network."""

import pytest
import torch
from helpers.networks import randomize_weights, small_model
from torch import Tensor, nn

from convatlas import models, visualization
from convatlas.analysis import analyze
from convatlas.errors import UsageError, UserError
from convatlas.visualization.feature_maps import forward_with_maps

NAMES = [
    "alexnet",
    "vgg11_bn",
    "googlenet",
    "inception_v3",
    "resnet18",
    "resnetv2_50",
    "se_mobilenet_v1",
    "shufflenet_v2",
    "xception",
    "lenet5",
]


class PooledNetwork(nn.Module):
    """The network of CAM (Zhou et al. 2015, arXiv:1512.04150, sec. 2): maps, their spatial means, and a
    linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.maps = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 6, 3, stride=2), nn.ReLU()
        )
        self.linear = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.maps(x).mean((2, 3)))  # type: ignore[no-any-return]


def central_differences(head: nn.Module, maps: Tensor, number: int) -> Tensor:
    """d y_c / d A of one image, element by element."""
    gradient = torch.zeros_like(maps)
    step = 1e-6
    for i in range(maps.numel()):
        offset = torch.zeros(maps.numel(), dtype=maps.dtype)
        offset[i] = step
        up, down = (head(maps + sign * offset.view_as(maps))[0, number] for sign in (1, -1))
        gradient.view(-1)[i] = (up - down) / (2 * step)
    return gradient


@torch.no_grad()
def test_it_is_equations_1_and_2_with_numerical_gradients() -> None:
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.Conv2d(2, 5, 3), nn.Tanh())
    head = nn.Sequential(nn.Conv2d(5, 7, 2), nn.Tanh(), nn.Flatten(), nn.Linear(7 * 16, 3))
    model = nn.Sequential(trunk, head).double()
    images = torch.randn(3, 2, 7, 7).double()
    classes = torch.tensor([2, 0, 1])
    cams = visualization.grad_cam(model, images, classes, "0")
    for image, number, cam in zip(images, classes.tolist(), cams, strict=True):
        maps = trunk(image[None])
        gradient = central_differences(head, maps, number)
        expected = torch.zeros(5, 5, dtype=torch.float64)
        for k in range(5):
            alpha = sum(float(gradient[0, k, i, j]) for i in range(5) for j in range(5)) / 25
            expected += alpha * maps[0, k]
        expected[expected < 0] = 0
        assert expected.max() > 0
        torch.testing.assert_close(cam, expected, rtol=0, atol=1e-8)


def test_for_pooled_maps_and_a_linear_layer_it_is_cam() -> None:
    """M_c(x, y) = sum over k of w_ck f_k(x, y) (arXiv:1512.04150, eq. 2), divided by the number of positions,
    without its negative part."""
    torch.manual_seed(1)
    model = PooledNetwork().double()
    images = torch.randn(4, 3, 17, 17).double()
    classes = torch.arange(4)
    maps = model.maps(images)
    weighted = torch.einsum("nk,nkij->nij", model.linear.weight[classes], maps)
    expected = weighted.clamp(min=0) / maps[0, 0].numel()
    cams = visualization.grad_cam(model, images, classes)
    assert visualization.last_conv_layer(model, (3, 17, 17)) == "maps"
    assert (cams > 0).any()
    torch.testing.assert_close(cams, expected.detach(), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", NAMES)
def test_the_last_conv_layer_includes_what_follows_at_its_size(name: str) -> None:
    model, images = small_model(name, image_size=96) if name == "alexnet" else small_model(name)
    shape = (images.shape[1], images.shape[2], images.shape[3])
    path = visualization.last_conv_layer(model, shape, min_side=1)
    sizes: dict[str, tuple[int, ...]] = {}  # in the order in which the modules end

    def record_size(path: str, output: Tensor) -> None:
        sizes[path] = tuple(output.shape[2:])

    hooks = [
        module.register_forward_hook(lambda _, inputs, output, path=path: record_size(path, output))
        for path, module in model.named_modules()
        if path
    ]
    model.eval()(images)
    for hook in hooks:
        hook.remove()
    assert min(sizes[path]) > 1
    paths = list(sizes)
    modules = {path: model.get_submodule(path) for path in paths}
    later = paths[paths.index(path) + 1 :]
    assert not any(isinstance(modules[p], nn.Conv2d) and min(sizes[p]) > 1 for p in later)
    same_size = [p for p in later if sizes[p] == sizes[path] and not p.startswith(path)]
    assert not any(isinstance(modules[p], nn.ReLU | nn.BatchNorm2d) for p in same_size)


@pytest.mark.parametrize(
    ("name", "side", "path", "map_side"),
    [
        ("vgg16", 224, "relu5_3", 14),
        ("resnet50", 224, "conv5_x", 7),
        ("inception_v3", 299, "Mixed_7c", 8),
        ("resnet18", 64, "conv3_x", 8),  # conv5_x has 2x2
        ("resnet20_cifar", 32, "conv4_x", 8),
        ("resnet20_cifar", 16, "conv3_x", 8),
        ("resnet20_cifar", 6, "conv2_x", 6),  # none has 7x7: the last of the largest
    ],
)
def test_by_default_the_maps_have_at_least_7x7(name: str, side: int, path: str, map_side: int) -> None:
    with torch.device("meta"):
        model = models.create_model(name, image_size=side)
    assert visualization.last_conv_layer(model, (3, side, side)) == path
    assert analyze(model, (3, side, side)).module(path).output_shape[2:] == [map_side, map_side]


@pytest.mark.parametrize("name", NAMES)
def test_it_works_for_any_network_and_leaves_it_unchanged(name: str) -> None:
    model, images = small_model(name, num_classes=10)
    randomize_weights(model).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with torch.inference_mode():  # as in prediction
        cams = visualization.grad_cam(model, images, torch.tensor([1, 2, 3]))
    assert cams.shape[0] == 3
    assert cams.isfinite().all()
    assert (cams >= 0).all()
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(module.training and not module._forward_hooks for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_an_image_has_the_same_map_alone_and_in_a_batch() -> None:
    model, images = small_model("vgg11_bn", num_classes=5)
    randomize_weights(model).double()
    images = images.double()
    classes = torch.tensor([0, 3, 3])
    batched = visualization.grad_cam(model, images, classes)
    single = torch.cat(
        [
            visualization.grad_cam(model, image[None], number[None])
            for image, number in zip(images, classes, strict=True)
        ]
    )
    torch.testing.assert_close(batched, single, rtol=1e-9, atol=1e-12)


def test_maps_are_those_before_an_in_place_activation() -> None:
    model, images = small_model("vgg11")
    randomize_weights(model)
    before = forward_with_maps(model, images, "conv5_2")
    after = forward_with_maps(model, images, "relu5_2")
    assert (before.maps < 0).any()
    assert torch.equal(before.maps.relu(), after.maps)
    assert torch.equal(before.logits, model.eval()(images))


@pytest.mark.parametrize(
    ("path", "classes", "message"),
    [
        ("conv5_3", [0, 1, 2], "unknown module 'conv5_3': the nearest is 'conv5_2'"),
        ("fc6", [0, 1, 2], "fc6 gives a tensor of shape (3, 1024), no maps"),
        ("conv5_2", [0, 1, 1000], "a class from 0 to 999 for each of the 3 images"),
        ("conv5_2", [0, 1], "a class from 0 to 999 for each of the 3 images"),
    ],
)
def test_unknown_layers_and_classes_are_refused(path: str, classes: list[int], message: str) -> None:
    model, images = small_model("vgg11")
    with pytest.raises(UsageError) as error:
        visualization.grad_cam(model, images, torch.tensor(classes), path)
    assert message in str(error.value)
    assert not any(module._forward_hooks for module in model.modules())


def test_networks_that_have_no_maps_are_refused() -> None:
    linear = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    with pytest.raises(UserError, match="no convolution"):
        visualization.grad_cam(linear, torch.zeros(1, 3, 2, 2), torch.tensor([0]))
    googlenet, images = small_model("googlenet")
    with pytest.raises(UserError, match=r"aux1\.conv does not run in evaluation"):
        visualization.grad_cam(googlenet, images, 0, "aux1.conv")
