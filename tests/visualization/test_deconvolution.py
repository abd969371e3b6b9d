"""The deconvolutional network: against the paper's, built layer by layer, and on planted patterns."""

import pytest
import torch
import torch.nn.functional as F
from helpers.networks import randomize_weights, small_model
from torch import Tensor, nn

from convatlas import visualization
from convatlas.errors import UsageError
from convatlas.layers.local_response import LocalResponseNorm
from convatlas.visualization.feature_maps import forward_with_maps


class Deconvnet:
    """Sec. 2.1, transcribed, for a sequence of layers: from the top down, one backward layer for each layer.

    Filter: the transposed filters. Rectify: the signal. Unpool: to the switches that pooling recorded.
    Normalisation: the signal is unchanged.
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
                x, self.switches[name] = F.max_pool2d(
                    x, layer.kernel_size, layer.stride, ceil_mode=layer.ceil_mode, return_indices=True
                )
            elif isinstance(layer, nn.ReLU):
                x = torch.clamp(x, min=0)
            else:
                x = layer(x)
            self.outputs[name] = x

    def project(self, name: str, signal: Tensor) -> Tensor:
        """Bring a signal at the output of a layer down to the pixels."""
        names = list(self.outputs)
        for below in reversed(names[: names.index(name) + 1]):
            signal = self.backward_layer(below, signal)
        return signal

    def backward_layer(self, name: str, signal: Tensor) -> Tensor:
        layer = self.layers[name]
        shape = self.inputs[name].shape
        if isinstance(layer, nn.MaxPool2d):
            switches = self.switches[name]
            if (layer.kernel_size, layer.stride) == (2, 2):
                return F.max_unpool2d(signal, switches, [2, 2], [2, 2], output_size=shape[2:])
            # overlapping windows may share a switch, whose value is then the sum of theirs
            zeros = torch.zeros(shape, dtype=signal.dtype).flatten(2)
            return zeros.scatter_add(2, switches.flatten(2), signal.flatten(2)).view(shape)
        if isinstance(layer, nn.ReLU):
            return torch.clamp(signal, min=0)
        if isinstance(layer, nn.Conv2d):
            stride = layer.stride[0]
            padding = int(layer.padding[0])
            kernel_size = layer.kernel_size[0]
            # pixels that no window reached
            output_padding = tuple((side + 2 * padding - kernel_size) % stride for side in shape[2:])
            return F.conv_transpose2d(
                signal, layer.weight, None, stride, padding, output_padding, layer.groups
            )
        assert isinstance(layer, LocalResponseNorm)
        return signal


@pytest.mark.parametrize("path", ["conv1", "pool1", "norm2", "conv3", "relu4", "pool5"])
@pytest.mark.parametrize("name", ["zfnet", "alexnet", "vgg11_lrn"])
def test_it_is_the_papers_deconvolutional_network(name: str, path: str) -> None:
    if name == "vgg11_lrn":
        vgg_paths = {"conv1": "conv1_1", "norm2": "norm1_2", "conv3": "conv3_2", "relu4": "relu4_2"}
        path = vgg_paths.get(path, path)
    model, images = small_model(name, image_size=95 if name == "zfnet" else 99 if name == "alexnet" else 64)
    randomize_weights(model).eval().double()
    images = images.double()
    with torch.no_grad():
        deconvnet = Deconvnet(model, images)
        activations = deconvnet.outputs[path]
        num_maps = activations.shape[1]
        for number in (0, num_maps // 2, num_maps - 1):
            signal = torch.zeros_like(activations)
            for n in range(len(images)):
                value, position = activations[n, number].flatten().max(0)
                signal[n, number].view(-1)[position] = value
            expected = deconvnet.project(path, signal)
            reconstruction = visualization.deconv_reconstruct(model, images, path, number)
            assert reconstruction.abs().max() > 0 or activations[:, number].max() <= 0
            tolerance = 1e-10 * float(expected.abs().max() + 1)
            torch.testing.assert_close(reconstruction, expected, rtol=1e-10, atol=tolerance)


def test_it_differs_from_the_gradient() -> None:
    """The rule of the rectifiers has an effect: without it, the tests above would compare two gradients."""
    model, images = small_model("zfnet")
    randomize_weights(model)
    images.requires_grad_()
    strongest = forward_with_maps(model, images, "relu3").maps[:, 5].flatten(1).amax(1)
    (gradient,) = torch.autograd.grad((strongest.square() / 2).sum(), images)
    reconstruction = visualization.deconv_reconstruct(model, images, "relu3", 5)
    assert (reconstruction - gradient).abs().max() > 0.1 * reconstruction.abs().max()


PATTERN = torch.tensor([[0, 1, 0, 0], [0, 1, 1, 0], [1, 0, 1, 0], [0, 0, 1, 1]]).float()


@pytest.mark.parametrize(("row", "column"), [(0, 0), (5, 11), (16, 12), (27, 27)])
def test_a_planted_pattern_is_reconstructed_at_its_position(row: int, column: int) -> None:
    """The pattern is the network's only filter, below two poolings and a layer that passes its map on: the
    reconstruction can only be the pattern."""
    first = nn.Conv2d(1, 2, 4)
    second = nn.Conv2d(2, 1, 1, bias=False)
    with torch.no_grad():
        first.weight.copy_(torch.stack([PATTERN - 0.25, 0.25 - PATTERN])[:, None])
        first.bias.fill_(-1)  # type: ignore[union-attr]
        second.weight.copy_(torch.tensor([1.0, 0.0]).view(1, 2, 1, 1))
    model = nn.Sequential(
        first,
        nn.ReLU(),
        nn.MaxPool2d(3, 2, ceil_mode=True),
        second,
        nn.ReLU(True),
        nn.MaxPool2d(2, ceil_mode=True),
    )
    image = 0.2 * torch.rand(1, 1, 31, 31, generator=torch.Generator().manual_seed(0))
    image[0, 0, row : row + 4, column : column + 4] = PATTERN
    reconstruction = visualization.deconv_reconstruct(model, image, "5", 0)[0, 0]
    at_pattern = reconstruction[row : row + 4, column : column + 4].clone()
    reconstruction[row : row + 4, column : column + 4] = 0
    assert not reconstruction.any()
    # negative where the filter is negative
    torch.testing.assert_close(at_pattern / at_pattern.max(), (PATTERN - 0.25) / 0.75)


def test_the_given_unit_is_projected() -> None:
    model, images = small_model("vgg11")
    randomize_weights(model).eval()
    maps = torch.tensor([0, 3, 7])
    units = torch.tensor([[0, 0], [15, 15], [0, 15]])
    signals = visualization.deconv_reconstruct(model, images, "pool2", maps, units)
    first, last = slice(0, 12), slice(52, 64)  # a receptive field of 10 pixels, stride 4
    for signal, rows, columns in zip(signals, (first, last, first), (first, last, last), strict=True):
        torch.testing.assert_close(signal[:, rows, columns].abs().sum(), signal.abs().sum())


@pytest.mark.parametrize(
    "name",
    [
        "googlenet",
        "resnet18",
        "resnetv2_50",
        "inception_v3",
        "se_mobilenet_v1",
        "shufflenet_v2",
        "lenet5",
    ],
)
def test_it_works_for_branches_sums_and_in_place_functions(name: str) -> None:
    model, images = small_model(name)
    randomize_weights(model).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    path = visualization.last_conv_layer(model, (images.shape[1], images.shape[2], images.shape[3]))
    maps = forward_with_maps(model, images, path).maps
    active_map = int(maps.amax((2, 3)).amin(0).argmax())  # active in every image
    with torch.inference_mode():
        reconstruction = visualization.deconv_reconstruct(model, images, path, active_map)
    assert reconstruction.shape == images.shape
    assert reconstruction.isfinite().all()
    assert reconstruction.abs().amax((1, 2, 3)).min() > 0
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


class ResidualBlock(nn.Module):
    """A residual block with a functional in-place rectifier, for which the paper's rules can be written
    out."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 3, 3, padding=1)
        self.inner = nn.Conv2d(3, 3, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(3)
        self.out = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(x), inplace=True)
        y = self.norm(self.inner(x)).relu_()
        return self.out(torch.relu(x + y)).flatten(1)  # type: ignore[no-any-return]


def test_both_branches_of_a_residual_block_are_rectified() -> None:
    torch.manual_seed(3)
    model = ResidualBlock()
    randomize_weights(model).eval().double()
    images = torch.randn(2, 1, 9, 9).double()
    units = torch.tensor([[4, 4], [2, 6]])
    reconstruction = visualization.deconv_reconstruct(model, images, "out", 1, units)
    with torch.no_grad():
        x = model.first(images).clamp(min=0)
        out = (x + model.norm(model.inner(x)).clamp(min=0)).clamp(min=0)
        signal = torch.zeros_like(out)
        signal[0, 1, 4, 4] = out[0, 1, 4, 4]
        signal[1, 1, 2, 6] = out[1, 1, 2, 6]
        assert model.norm.running_var is not None
        scale = model.norm.weight / (model.norm.running_var + model.norm.eps).sqrt()
        rectified = signal.clamp(min=0) * scale[:, None, None]
        branch = F.conv_transpose2d(rectified, model.inner.weight, padding=1)
        expected = F.conv_transpose2d((signal + branch).clamp(min=0), model.first.weight, padding=1)
    assert expected.abs().max() > 0
    torch.testing.assert_close(reconstruction, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("map", "unit", "message"),
    [
        (128, None, "relu5_2 has maps 0 to 127: there is no map 128"),
        (
            0,
            [[0, 0], [0, 0]],
            "the maps of relu5_2 are 4x4: expected a row and a column in them for each of 3 images",
        ),
        (0, [[0, 0], [0, 4], [0, 0]], "the maps of relu5_2 are 4x4"),
    ],
)
def test_maps_and_units_that_do_not_exist_are_named(
    map: int, unit: list[list[int]] | None, message: str
) -> None:
    model, images = small_model("vgg11")
    units = None if unit is None else torch.tensor(unit)
    with pytest.raises(UsageError, match=message):
        visualization.deconv_reconstruct(model, images, "relu5_2", map, units)
