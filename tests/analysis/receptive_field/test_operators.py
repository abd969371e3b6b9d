"""Receptive fields against published tables, and against gradients of random networks."""

import itertools
from collections.abc import Sequence
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from convatlas import models
from convatlas.analysis import Report, analyze

Pair = tuple[int, int]


@cache
def cached_report(name: str, edition: str = "paper") -> Report:
    with torch.device("meta"):
        return analyze(models.create_model(name, edition), models.get_entry(name).input)


# Size, effective stride and effective padding of google-research/receptive_field: its README's table, and
# those endpoints of its alexnet_v2, vgg_a, vgg_16, inception_v2 (BN-Inception) and inception_v3 that have the
# papers' strides. The padding is None where it is not the paper's.
ENDPOINTS: dict[str, list[tuple[str, int, int, int | None]]] = {
    "alexnet": [
        *[("conv1", 11, 4, None), ("pool1", 19, 8, None), ("conv2", 51, 8, None), ("conv3", 99, 16, None)],
        *[("conv4", 131, 16, None), ("conv5", 163, 16, None), ("pool5", 195, 32, None)],
    ],
    "vgg11": [
        *[("conv1_1", 3, 1, 1), ("pool1", 4, 2, 1), ("conv2_1", 8, 2, 3), ("pool2", 10, 4, 3)],
        *[("conv3_1", 18, 4, None)],
        *[("conv3_2", 26, 4, None), ("pool3", 30, 8, 11), ("conv4_1", 46, 8, None), ("conv4_2", 62, 8, None)],
        *[("pool4", 70, 16, 27)],
        *[("conv5_1", 102, 16, None), ("conv5_2", 134, 16, None), ("pool5", 150, 32, 59)],
    ],
    "vgg16": [
        *[("conv1_1", 3, 1, 1), ("pool1", 6, 2, 2), ("conv2_1", 10, 2, None), ("pool2", 16, 4, 6)],
        *[("conv3_1", 24, 4, None), ("conv3_2", 32, 4, None), ("pool3", 44, 8, 18), ("conv4_1", 60, 8, None)],
        *[("conv4_2", 76, 8, None), ("pool4", 100, 16, 42)],
        *[("conv5_1", 132, 16, None), ("conv5_2", 164, 16, None), ("pool5", 212, 32, 90)],
    ],
    "bn_inception": [
        *[("conv1", 7, 2, None), ("pool1", 11, 4, None), ("conv2_reduce", 11, 4, None)],
        *[("conv2", 19, 4, None), ("pool2", 27, 8, None)],
        *[("inception_3a", 59, 8, None), ("inception_3b", 91, 8, None), ("inception_3c", 123, 16, None)],
        *[("inception_4a", 187, 16, None), ("inception_4b", 251, 16, None), ("inception_4c", 315, 16, None)],
        *[("inception_4d", 379, 16, None), ("inception_4e", 443, 32, None)],
        *[("inception_5a", 571, 32, None), ("inception_5b", 699, 32, None)],
    ],
    "inception_v3": [
        *[("Conv2d_1a_3x3", 3, 2, 0), ("Conv2d_2a_3x3", 7, 2, 0), ("Conv2d_2b_3x3", 11, 2, 2)],
        *[("MaxPool_3a_3x3", 15, 4, 2), ("Conv2d_3b_1x1", 15, 4, 2), ("Conv2d_4a_3x3", 23, 4, 2)],
        *[("MaxPool_5a_3x3", 31, 8, 2), ("Mixed_5b", 63, 8, 18)],
        *[("Mixed_5c", 95, 8, 34), ("Mixed_5d", 127, 8, 50), ("Mixed_6a", 159, 16, 58)],
        *[("Mixed_6b", 351, 16, 154), ("Mixed_6c", 543, 16, 250), ("Mixed_6d", 735, 16, 346)],
        *[("Mixed_6e", 927, 16, 442), ("Mixed_7a", 1055, 32, 490), ("Mixed_7b", 1183, 32, 554)],
        *[("Mixed_7c", 1311, 32, 618)],
    ],
    "mobilenet_v1": [("block13", 315, 32, None)],
    "resnet50": [("conv5_x", 483, 32, None)],
    "resnet101": [("conv5_x", 1027, 32, None)],
    "resnet152": [("conv5_x", 1507, 32, None)],
}


@pytest.mark.parametrize(
    ("name", "path", "size", "stride", "padding"),
    [(name, *endpoint) for name, endpoints in ENDPOINTS.items() for endpoint in endpoints],
)
def test_receptive_fields_are_those_of_the_published_table(
    name: str, path: str, size: int, stride: int, padding: int | None
) -> None:
    for extent in cached_report(name).receptive_field(path):
        assert (extent.size, extent.stride) == (size, stride)
        assert padding is None or extent.start == -padding


@pytest.mark.parametrize(
    ("name", "edition", "path", "size", "stride"),
    [
        ("zfnet", "paper", "pool5", 171, 32),
        ("vgg13", "paper", "pool5", 156, 32),
        ("vgg19", "paper", "pool5", 268, 32),
        ("googlenet", "paper", "inception_5b", 715, 32),
        ("resnet18", "paper", "conv5_x", 435, 32),
        ("resnet34", "paper", "conv5_x", 899, 32),
        ("resnet50", "torchvision", "conv5_x", 427, 32),
        ("resnet20_cifar", "paper", "conv4_x", 81, 4),
        ("resnet56_cifar", "paper", "conv4_x", 249, 4),
        ("resnet110_cifar", "paper", "conv4_x", 501, 4),
        ("unet", "paper", "bottom", 140, 16),
        # arXiv:1411.4038, Table 1: AlexNet 355, VGG-16 404, GoogLeNet 907
        ("fcn32s", "paper", "fc6", 404, 32),
    ],
)
def test_receptive_fields_are_those_of_the_papers_and_the_formula(
    name: str, edition: str, path: str, size: int, stride: int
) -> None:
    for extent in cached_report(name, edition).receptive_field(path):
        assert (extent.size, extent.stride) == (size, stride)


def test_fully_connected_layers_have_the_fields_that_fcn_prints() -> None:
    assert [e.size for e in cached_report("alexnet").receptive_field("fc6")] == [355, 355]
    assert [e.size for e in cached_report("googlenet").receptive_field("avgpool")] == [907, 907]


class Branches(nn.Module):
    """Branches side by side, cropped to the smallest map, then added or concatenated."""

    def __init__(self, *branches: nn.Module, add: bool = False):
        super().__init__()
        self.branches = nn.ModuleList(branches)
        self.add = add

    def forward(self, x: Tensor) -> Tensor:
        maps = [branch(x) for branch in self.branches]
        h, w = (min(features.shape[d] for features in maps) for d in (2, 3))
        maps = [features[..., :h, :w] for features in maps]
        return sum(maps[1:], maps[0]) if self.add else torch.cat(maps, 1).sum(1, keepdim=True)


def conv(kernel: Any, **arguments: Any) -> nn.Conv2d:
    return nn.Conv2d(1, 1, kernel, bias=False, **arguments)


def test_a_field_is_the_smallest_interval_that_covers_all_paths() -> None:
    """Branches of [-1, 1] and [0, 2] give 4: not the larger of the two."""
    net = Branches(conv((1, 3), padding=(0, 1)), conv((1, 3)), add=True)
    assert analyze(net, (1, 8, 20)).receptive_field("") == ((0, 1, 1), (-1, 4, 1))


def test_asymmetric_dilated_and_transposed_kernels_have_exact_fields() -> None:
    assert analyze(conv((1, 7), padding=(0, 3)), (1, 9, 9)).receptive_field("") == ((0, 1, 1), (-3, 7, 1))
    assert analyze(conv(3, dilation=(2, 4)), (1, 19, 19)).receptive_field("") == ((0, 5, 1), (0, 9, 1))
    transposed = nn.ConvTranspose2d(1, 1, 4, stride=2, padding=1)
    assert analyze(transposed, (1, 9, 9)).receptive_field("") == ((-1, 2, 0.5), (-1, 2, 0.5))


@pytest.mark.parametrize("mode", ["nearest", "bilinear", "bicubic"])
def test_interpolation_halves_the_stride(mode: str) -> None:
    sizes = {"nearest": 1, "bilinear": 2, "bicubic": 4}
    rows = analyze(nn.Upsample(scale_factor=2, mode=mode), (1, 8, 8)).rows
    assert (rows[0].receptive_field, rows[0].stride) == ([sizes[mode]] * 2, [0.5, 0.5])


def test_a_gate_gives_every_unit_the_field_of_the_whole_image() -> None:
    with torch.device("meta"):
        report = analyze(models.create_model("se_resnet50"), (3, 224, 224))
    block = report.module("conv2_x.0")
    assert block.sees_whole_image
    assert block.stride == [4, 4]
    assert not report.module("maxpool").sees_whole_image


def test_an_image_has_one_or_three_axes() -> None:
    signal_report = analyze(nn.Conv1d(2, 2, 5, stride=2), torch.empty(1, 2, 30))
    assert signal_report.receptive_field("") == ((0, 5, 2),)
    volume_report = analyze(nn.Conv3d(1, 1, (1, 3, 5)), torch.empty(1, 1, 8, 8, 8))
    assert [extent.size for extent in volume_report.receptive_field("")] == [1, 3, 5]


# Random networks: any unit's field against the pixels by which it has a gradient

pairs = st.tuples(st.integers(1, 3), st.integers(1, 3))


def padding_below(padding: Pair, kernel: Pair) -> Pair:
    """A padding smaller than the kernel."""
    return min(padding[0], kernel[0]) - 1, min(padding[1], kernel[1]) - 1


def convolutions() -> st.SearchStrategy[nn.Module]:
    def build(kernel: Pair, stride: Pair, padding: Pair, dilation: Pair) -> nn.Module:
        return conv(kernel, stride=stride, padding=padding_below(padding, kernel), dilation=dilation)

    return st.builds(build, pairs, st.tuples(st.integers(1, 2), st.integers(1, 2)), pairs, pairs)


def transposed_convolutions() -> st.SearchStrategy[nn.Module]:
    def build(excess: Pair, stride: Pair, padding: Pair) -> nn.Module:
        kernel = (stride[0] + excess[0] - 1, stride[1] + excess[1] - 1)
        return nn.ConvTranspose2d(1, 1, kernel, stride, padding_below(padding, kernel), bias=False)

    return st.builds(build, pairs, st.tuples(st.integers(1, 3), st.integers(1, 2)), pairs)


class Resize(nn.Module):
    """Interpolation to `size` thirds of the height and the width."""

    def __init__(self, mode: str, size: Pair, align_corners: bool):
        super().__init__()
        self.mode = mode
        self.size = size
        self.align_corners = align_corners

    def extra_repr(self) -> str:
        return f"{self.mode}, {self.size}, {self.align_corners}"

    def forward(self, x: Tensor) -> Tensor:
        size = (max(1, x.shape[2] * self.size[0] // 3), max(1, x.shape[3] * self.size[1] // 3))
        align_corners = self.align_corners if self.mode in ("bilinear", "bicubic") else None
        return F.interpolate(x, size, mode=self.mode, align_corners=align_corners)


class Rearranged(nn.Module):
    """Pixel unshuffle, reshapes, a 1x1 convolution, pixel shuffle."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Conv2d(4, 4, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h, w = x.shape[2] // 2, x.shape[3] // 2
        folded = F.pixel_unshuffle(x[:, :, : 2 * h, : 2 * w], 2).flatten(2).reshape(1, 4, h, w)
        return F.pixel_shuffle(self.mix(folded), 2)


class Residual(nn.Module):
    def __init__(self, kernel: int, dilation: int):
        super().__init__()
        self.conv = conv(kernel, padding="same", dilation=dilation)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x).add_(x)
        return out


layers: st.SearchStrategy[nn.Module] = st.one_of(
    convolutions(),
    convolutions(),
    transposed_convolutions(),
    st.builds(Residual, st.sampled_from([3, 5]), st.integers(1, 3)),
    st.builds(nn.AvgPool2d, st.integers(1, 3), st.integers(1, 3)),
    st.builds(
        Resize,
        st.sampled_from(["nearest", "bilinear", "bicubic"]),
        st.tuples(*[st.integers(2, 6)] * 2),
        st.booleans(),
    ),
    # At other sizes torch rounds ties another way.
    st.builds(Resize, st.just("nearest-exact"), st.tuples(*[st.sampled_from([3, 6])] * 2), st.just(False)),
    st.builds(nn.ZeroPad2d, st.tuples(*[st.integers(0, 2)] * 4)),
    st.builds(Rearranged),
)
chains = st.lists(layers, min_size=1, max_size=3).map(lambda modules: nn.Sequential(*modules))
branches = st.builds(lambda a, b, add: Branches(a, b, add=add), chains, chains, st.booleans())
networks = st.builds(
    lambda before, middle, after: nn.Sequential(*before, middle, *after),
    st.lists(layers, max_size=2),
    st.one_of(branches, chains),
    st.lists(layers, max_size=2),
)
SIDES = (29, 36)
# Pixels from the border: nearer to it, a unit can read padding where its field treats the map as continued.
MARGIN = 6


def gradient_intervals(out: Tensor, images: Tensor, unit: Sequence[int]) -> list[Pair | None]:
    """First and last pixel by which a unit has a gradient, along each axis."""
    start = torch.zeros_like(out)
    start[0, 0, unit[0], unit[1]] = 1
    (gradient,) = torch.autograd.grad(out, images, start, retain_graph=True)
    has_gradient = gradient[0, 0].abs() > 0
    intervals: list[Pair | None] = []
    for axis in (0, 1):
        pixels = has_gradient.any(1 - axis).nonzero().flatten().tolist()
        intervals.append((pixels[0], pixels[-1]) if pixels else None)
    return intervals


def is_far_from_border(field: Pair | None, side: int) -> bool:
    return field is not None and field[0] >= MARGIN and field[1] < side - MARGIN


@settings(max_examples=150, derandomize=True, suppress_health_check=[HealthCheck.filter_too_much])
@given(net=networks, position=st.tuples(st.floats(0.3, 0.7), st.floats(0.3, 0.7)), seed=st.integers(0, 1000))
def test_a_units_field_is_the_pixels_by_which_it_has_a_gradient(
    net: nn.Module, position: tuple[float, float], seed: int
) -> None:
    """No unit has a gradient outside its field. Far from the border the field is exact."""
    generator = torch.Generator().manual_seed(seed)
    net = net.double()
    for parameter in net.parameters():
        nn.init.uniform_(parameter, 0.5, 1.5, generator=generator)
    images = torch.rand(1, 1, *SIDES, generator=generator, dtype=torch.float64).requires_grad_()
    try:
        out = net(images)
    except (RuntimeError, ValueError):
        assume(False)
    assume(min(out.shape[2:]) > 0)
    report = analyze(net, images)
    corners = itertools.product((0, out.shape[2] - 1), (0, out.shape[3] - 1))
    middle = (int(position[0] * out.shape[2]), int(position[1] * out.shape[3]))
    for unit in (*corners, middle):
        gradients = gradient_intervals(out, images, unit)
        for gradient, field in zip(gradients, report.pixels("", unit), strict=True):
            if gradient is not None:
                assert field is not None
                assert field[0] <= gradient[0]
                assert gradient[1] <= field[1]
    fields = report.pixels("", middle)
    if all(is_far_from_border(field, side) for field, side in zip(fields, SIDES, strict=True)):
        assert list(fields) == gradient_intervals(out, images, middle)
        for field, extent in zip(fields, report.receptive_field(""), strict=True):
            assert field is not None
            assert field[1] - field[0] < extent.size
