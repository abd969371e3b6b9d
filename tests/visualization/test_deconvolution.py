"""The deconvolution network against the paper's, built layer by layer; and patterns found where they were planted."""

import pytest
import torch
import torch.nn.functional as F
from helpers.networks import shake, small
from torch import Tensor, nn

from convatlas import visualization
from convatlas.errors import UsageError
from convatlas.layers.local_response import LocalResponseNorm
from convatlas.visualization.feature_maps import forward_with_maps


class Deconvnet:
    """Sec. 2.1, transcribed, for layers that follow one another: a layer of its own for every layer of the network, from the top down.

    Filter: the transposed filters. Rectify: the signal. Unpool: to the switches that pooling recorded. Normalisation: passed over.
    """

    def __init__(self, model: nn.Module, images: Tensor):
        self.layers = dict(model.named_children())
        self.inputs: dict[str, Tensor] = {}
        self.outputs: dict[str, Tensor] = {}
        self.switches: dict[str, Tensor] = {}
        x = images
        for name, layer in self.layers.items():
            if isinstance(layer, nn.Flatten):
                break
            self.inputs[name] = x
            if isinstance(layer, nn.MaxPool2d):
                x, self.switches[name] = F.max_pool2d(x, layer.kernel_size, layer.stride, ceil_mode=layer.ceil_mode, return_indices=True)
            elif isinstance(layer, nn.ReLU):
                x = torch.clamp(x, min=0)
            else:
                x = layer(x)
            self.outputs[name] = x

    def down(self, name: str, signal: Tensor) -> Tensor:
        names = list(self.outputs)
        for below in reversed(names[: names.index(name) + 1]):
            signal = self.through(below, signal)
        return signal

    def through(self, name: str, signal: Tensor) -> Tensor:
        layer, size = self.layers[name], self.inputs[name].shape
        if isinstance(layer, nn.MaxPool2d):
            if (layer.kernel_size, layer.stride) == (2, 2):
                return F.max_unpool2d(signal, self.switches[name], [2, 2], [2, 2], output_size=size[2:])
            # windows that overlap may share a switch, and the place then gets what all of them pass down
            return (
                torch.zeros(size, dtype=signal.dtype)
                .flatten(2)
                .scatter_add(2, self.switches[name].flatten(2), signal.flatten(2))
                .view(size)
            )
        if isinstance(layer, nn.ReLU):
            return torch.clamp(signal, min=0)
        if isinstance(layer, nn.Conv2d):
            stride, padding, kernel = layer.stride[0], int(layer.padding[0]), layer.kernel_size[0]
            left = tuple((a + 2 * padding - kernel) % stride for a in size[2:])  # pixels that no window reached
            return F.conv_transpose2d(signal, layer.weight, None, stride, padding, left, layer.groups)
        assert isinstance(layer, LocalResponseNorm)
        return signal


@pytest.mark.parametrize("path", ["conv1", "pool1", "norm2", "conv3", "relu4", "pool5"])
@pytest.mark.parametrize("name", ["zfnet", "alexnet", "vgg11_lrn"])
def test_it_is_the_papers_deconvolution_network(name: str, path: str) -> None:
    if name == "vgg11_lrn":
        path = {"conv1": "conv1_1", "norm2": "norm1_2", "conv3": "conv3_2", "relu4": "relu4_2"}.get(path, path)
    model, images = small(name, image_size=95 if name == "zfnet" else 99 if name == "alexnet" else 64)
    shake(model).eval().double()
    images = images.double()
    with torch.no_grad():
        theirs = Deconvnet(model, images)
        activations = theirs.outputs[path]
        for number in (0, activations.shape[1] // 2, activations.shape[1] - 1):
            alone = torch.zeros_like(activations)
            for n in range(len(images)):
                value, place = activations[n, number].flatten().max(0)
                alone[n, number].view(-1)[place] = value
            expected = theirs.down(path, alone)
            found = visualization.deconv_reconstruct(model, images, path, number)
            assert found.abs().max() > 0 or activations[:, number].max() <= 0
            torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10 * float(expected.abs().max() + 1))


def test_it_is_not_the_gradient() -> None:
    """What the rule of the rectifiers changes, so that a rule that did not act would be noticed."""
    model, images = small("zfnet")
    shake(model)
    images.requires_grad_()
    strongest = forward_with_maps(model, images, "relu3").maps[:, 5].flatten(1).amax(1)
    (gradient,) = torch.autograd.grad((strongest.square() / 2).sum(), images)
    found = visualization.deconv_reconstruct(model, images, "relu3", 5)
    assert (found - gradient).abs().max() > 0.1 * found.abs().max()


PATTERN = torch.tensor([[0, 1, 0, 0], [0, 1, 1, 0], [1, 0, 1, 0], [0, 0, 1, 1]]).float()


@pytest.mark.parametrize(("row", "column"), [(0, 0), (5, 11), (16, 12), (27, 27)])
def test_a_planted_pattern_is_reconstructed_where_it_was_planted(row: int, column: int) -> None:
    """A network whose one filter is the pattern, below two poolings and a layer that passes its map on: nothing else could be right."""
    first, second = nn.Conv2d(1, 2, 4), nn.Conv2d(2, 1, 1, bias=False)
    with torch.no_grad():
        first.weight.copy_(torch.stack([PATTERN - 0.25, 0.25 - PATTERN])[:, None])
        first.bias.fill_(-1)  # type: ignore[union-attr]
        second.weight.copy_(torch.tensor([1.0, 0.0]).view(1, 2, 1, 1))
    model = nn.Sequential(first, nn.ReLU(), nn.MaxPool2d(3, 2, ceil_mode=True), second, nn.ReLU(True), nn.MaxPool2d(2, ceil_mode=True))
    image = 0.2 * torch.rand(1, 1, 31, 31, generator=torch.Generator().manual_seed(0))
    image[0, 0, row : row + 4, column : column + 4] = PATTERN
    found = visualization.deconv_reconstruct(model, image, "5", 0)[0, 0]
    drawn = found[row : row + 4, column : column + 4].clone()
    found[row : row + 4, column : column + 4] = 0
    assert not found.any()  # nothing anywhere else
    torch.testing.assert_close(drawn / drawn.max(), (PATTERN - 0.25) / 0.75)  # and the very pattern there, grey for what speaks against it


def test_the_chosen_unit_is_the_one_that_is_projected() -> None:
    model, images = small("vgg11")
    shake(model).eval()
    far = visualization.deconv_reconstruct(model, images, "pool2", torch.tensor([0, 3, 7]), torch.tensor([[0, 0], [15, 15], [0, 15]]))
    ends = [(slice(0, 12), slice(0, 12)), (slice(52, 64), slice(52, 64)), (slice(0, 12), slice(52, 64))]  # a field of 10 pixels, stride 4
    for signal, (rows, columns) in zip(far, ends, strict=True):
        seen = signal[:, rows, columns].abs().sum()
        torch.testing.assert_close(seen, signal.abs().sum())


@pytest.mark.parametrize("name", ["googlenet", "resnet18", "resnetv2_50", "inception_v3", "se_mobilenet_v1", "shufflenet_v2", "lenet5"])
def test_branches_sums_and_functions_in_place_need_nothing_more(name: str) -> None:
    model, images = small(name)
    shake(model).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    path = visualization.last_conv_layer(model, (images.shape[1], images.shape[2], images.shape[3]))
    excited = int(forward_with_maps(model, images, path).maps.amax((2, 3)).amin(0).argmax())  # in every image
    with torch.inference_mode():
        found = visualization.deconv_reconstruct(model, images, path, excited)
    assert found.shape == images.shape
    assert found.isfinite().all()
    assert found.abs().amax((1, 2, 3)).min() > 0
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


class Branching(nn.Module):
    """A residual block with a functional rectifier in place, of which the paper's rules can be written out by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.inner, self.norm = nn.Conv2d(1, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1, bias=False), nn.BatchNorm2d(3)
        self.out = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(x), inplace=True)
        y = self.norm(self.inner(x)).relu_()
        return self.out(torch.relu(x + y)).flatten(1)  # type: ignore[no-any-return]


def test_a_block_with_a_shortcut_is_rectified_on_both_ways() -> None:
    torch.manual_seed(3)
    model = Branching()
    shake(model).eval().double()
    images = torch.randn(2, 1, 9, 9).double()
    found = visualization.deconv_reconstruct(model, images, "out", 1, torch.tensor([[4, 4], [2, 6]]))
    with torch.no_grad():
        x = model.first(images).clamp(min=0)
        out = (x + model.norm(model.inner(x)).clamp(min=0)).clamp(min=0)
        signal = torch.zeros_like(out)
        signal[0, 1, 4, 4], signal[1, 1, 2, 6] = out[0, 1, 4, 4], out[1, 1, 2, 6]
        assert model.norm.running_var is not None
        scale = model.norm.weight / (model.norm.running_var + model.norm.eps).sqrt()
        branch = F.conv_transpose2d(signal.clamp(min=0) * scale[:, None, None], model.inner.weight, padding=1)
        expected = F.conv_transpose2d((signal + branch).clamp(min=0), model.first.weight, padding=1)
    assert expected.abs().max() > 0
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("map", "unit", "said"),
    [
        (128, None, "relu5_2 has maps 0 to 127: there is no map 128"),
        (0, [[0, 0], [0, 0]], "the maps of relu5_2 are 4x4: expected a row and a column in them for each of 3 images"),
        (0, [[0, 0], [0, 4], [0, 0]], "the maps of relu5_2 are 4x4"),
    ],
)
def test_maps_and_units_that_do_not_exist_are_named(map: int, unit: list[list[int]] | None, said: str) -> None:
    model, images = small("vgg11")
    with pytest.raises(UsageError, match=said):
        visualization.deconv_reconstruct(model, images, "relu5_2", map, None if unit is None else torch.tensor(unit))
