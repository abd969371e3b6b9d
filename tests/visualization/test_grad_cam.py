"""Grad-CAM against its equations, written out; and what it promises for any network."""

import pytest
import torch
from helpers.networks import HUGE, shake, small
from torch import Tensor, nn

from convatlas import models, visualization
from convatlas.errors import UsageError, UserError
from convatlas.visualization.feature_maps import forward_with_maps

NAMES = [name for name in models.list_models() if name not in HUGE and models.get_entry(name).task == "classification"]
FEW = [
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


class Pooled(nn.Module):
    """Maps, their means over the grid, a linear layer: the network of CAM (Zhou et al. 2015, arXiv:1512.04150, sec. 2)."""

    def __init__(self) -> None:
        super().__init__()
        self.maps = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 6, 3, stride=2), nn.ReLU())
        self.linear = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.maps(x).mean((2, 3)))  # type: ignore[no-any-return]


def by_differences(head: nn.Module, maps: Tensor, number: int) -> Tensor:
    """d y_c / d A of one image, place by place, by central differences of the score."""
    gradient, step = torch.zeros_like(maps), 1e-6
    for place in range(maps.numel()):
        moved = torch.zeros(maps.numel(), dtype=maps.dtype)
        moved[place] = step
        up, down = (head(maps + sign * moved.view_as(maps))[0, number] for sign in (1, -1))
        gradient.view(-1)[place] = (up - down) / (2 * step)
    return gradient


@torch.no_grad()
def test_it_is_equations_1_and_2_with_gradients_measured_by_differences() -> None:
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.Conv2d(2, 5, 3), nn.Tanh())
    head = nn.Sequential(nn.Conv2d(5, 7, 2), nn.Tanh(), nn.Flatten(), nn.Linear(7 * 16, 3))
    model, images, classes = nn.Sequential(trunk, head).double(), torch.randn(3, 2, 7, 7).double(), torch.tensor([2, 0, 1])
    found = visualization.grad_cam(model, images, classes, "0")
    for image, number, cam in zip(images, classes.tolist(), found, strict=True):
        maps = trunk(image[None])
        gradient = by_differences(head, maps, number)
        expected = torch.zeros(5, 5, dtype=torch.float64)
        for k in range(5):
            alpha = sum(float(gradient[0, k, i, j]) for i in range(5) for j in range(5)) / 25
            expected += alpha * maps[0, k]
        expected[expected < 0] = 0
        assert expected.max() > 0
        torch.testing.assert_close(cam, expected, rtol=0, atol=1e-8)


def test_of_pooled_maps_and_a_linear_layer_it_is_cam() -> None:
    """M_c(x, y) = sum over k of w_ck f_k(x, y) (arXiv:1512.04150, eq. 2), by the number of places, its negative part dropped."""
    torch.manual_seed(1)
    model, images = Pooled().double(), torch.randn(4, 3, 15, 15).double()
    classes = torch.arange(4)
    maps = model.maps(images)
    cam = torch.einsum("nk,nkij->nij", model.linear.weight[classes], maps).clamp(min=0) / maps[0, 0].numel()
    found = visualization.grad_cam(model, images, classes)
    assert visualization.last_conv_layer(model, (3, 15, 15)) == "maps"
    assert (found > 0).any()
    torch.testing.assert_close(found, cam.detach(), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", FEW)
def test_its_last_maps_are_the_last_that_a_convolution_leaves_with_what_follows_on_their_grid(name: str) -> None:
    model, images = small(name, image_size=96) if name == "alexnet" else small(name)
    shape = (images.shape[1], images.shape[2], images.shape[3])
    path = visualization.last_conv_layer(model, shape)
    grids: dict[str, tuple[int, ...]] = {}
    hooks = [m.register_forward_hook(lambda _, i, o, p=p: grids.update({p: tuple(o.shape[2:])})) for p, m in model.named_modules() if p]
    model.eval()(images)
    for hook in hooks:
        hook.remove()
    assert min(grids[path]) > 1
    done = list(grids)  # in the order in which they ended
    convolutions = [p for p in done if isinstance(model.get_submodule(p), nn.Conv2d) and min(grids[p]) > 1]
    later = done[done.index(path) + 1 :]
    assert not set(later) & set(convolutions)
    assert all(grids[p] != grids[path] or p.startswith(path) for p in later if isinstance(model.get_submodule(p), nn.ReLU | nn.BatchNorm2d))


@pytest.mark.parametrize("name", FEW)
def test_it_finds_something_in_every_kind_of_network_and_leaves_it_as_it_was(name: str) -> None:
    model, images = small(name, num_classes=10)
    shake(model).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with torch.inference_mode():  # where answers are usually made
        found = visualization.grad_cam(model, images, torch.tensor([1, 2, 3]))
    assert found.shape[0] == 3
    assert found.isfinite().all()
    assert (found >= 0).all()
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(module.training and not module._forward_hooks for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_an_image_alone_or_among_others_looks_the_same() -> None:
    model, images = small("vgg11_bn", num_classes=5)
    shake(model).double()
    together = visualization.grad_cam(model, images.double(), torch.tensor([0, 3, 3]))
    alone = torch.cat(
        [visualization.grad_cam(model, image[None].double(), torch.tensor([c])) for image, c in zip(images, (0, 3, 3), strict=True)]
    )
    torch.testing.assert_close(together, alone, rtol=1e-9, atol=1e-12)


def test_maps_are_kept_as_they_were_before_an_activation_in_place() -> None:
    model, images = small("vgg11")
    shake(model)
    assert (forward_with_maps(model, images, "conv5_2").maps < 0).any()
    assert torch.equal(forward_with_maps(model, images, "conv5_2").maps.relu(), forward_with_maps(model, images, "relu5_2").maps)
    assert torch.equal(forward_with_maps(model, images, "conv5_2").logits, model.eval()(images))


@pytest.mark.parametrize(
    ("path", "classes", "said"),
    [
        ("conv5_3", [0, 1, 2], "unknown module 'conv5_3': the nearest is 'conv5_2'"),
        ("fc6", [0, 1, 2], "fc6 gives a tensor of shape (3, 1024), no maps"),
        ("conv5_2", [0, 1, 1000], "a class from 0 to 999 for each of the 3 images"),
        ("conv5_2", [0, 1], "a class from 0 to 999 for each of the 3 images"),
    ],
)
def test_what_cannot_be_asked_is_said_in_a_sentence(path: str, classes: list[int], said: str) -> None:
    model, images = small("vgg11")
    with pytest.raises(UsageError) as caught:
        visualization.grad_cam(model, images, torch.tensor(classes), path)
    assert said in str(caught.value)
    assert not any(module._forward_hooks for module in model.modules())


def test_networks_that_label_pixels_or_have_no_maps_are_refused() -> None:
    fcn, images = small("fcn32s")
    with pytest.raises(UsageError, match="labels every pixel"):
        visualization.grad_cam(fcn, images, torch.tensor([0, 0, 0]))
    with pytest.raises(UserError, match="no convolution"):
        visualization.grad_cam(nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), torch.zeros(1, 3, 2, 2), torch.tensor([0]))
    googlenet, images = small("googlenet")
    with pytest.raises(UserError, match=r"aux1\.conv does not run in evaluation"):
        visualization.grad_cam(googlenet, images, torch.tensor([0, 0, 0]), "aux1.conv")
