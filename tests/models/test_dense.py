"""The networks for dense prediction."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convatlas import analysis
from convatlas.errors import UsageError
from convatlas.layers.init import glorot_uniform
from convatlas.layers.upsampling import BilinearUpsampling, bilinear_kernel, crop
from convatlas.models import alexnet, googlenet, vgg
from convatlas.models.fcn import FCN, TABLE_2, init_from
from convatlas.models.network import Network
from convatlas.models.unet import UNet

fcn32s, fcn16s, fcn8s = (partial(FCN, TABLE_2[row]) for row in ("FCN-32s", "FCN-16s", "FCN-8s"))
DENSE: dict[str, Callable[..., Network]] = {
    "unet": UNet,
    "fcn32s": fcn32s,
    "fcn16s": fcn16s,
    "fcn8s": fcn8s,
    "fcn32s-alexnet": partial(fcn32s, backbone="alexnet"),
    "fcn32s-googlenet": partial(fcn32s, backbone="googlenet"),
}


@pytest.mark.parametrize("size", [3, 4, 16, 32, 63, 64])
def test_the_bilinear_kernel_is_the_released_formula(size: int) -> None:
    factor = (size + 1) // 2
    centre = factor - 1 if size % 2 else factor - 0.5
    expected = np.empty((size, size))
    for i in range(size):
        for j in range(size):
            expected[i, j] = (1 - abs(i - centre) / factor) * (1 - abs(j - centre) / factor)
    np.testing.assert_allclose(bilinear_kernel(size).numpy(), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("kernel", "stride"), [(4, 2), (16, 8), (63, 32)])
def test_upsampling_starts_as_bilinear_interpolation_of_each_channel(kernel: int, stride: int) -> None:
    x = torch.randn(2, 3, 5, 6)
    upsampled = BilinearUpsampling(3, kernel, stride)(x)
    if kernel % 2:  # input pixels coincide with output pixels: interpolation between the outermost
        expected = F.interpolate(x, [stride * 4 + 1, stride * 5 + 1], mode="bilinear", align_corners=True)
        upsampled = crop(upsampled, expected, stride - 1)
    else:  # input pixels are centres of stride x stride output pixels; the outermost half has no neighbour
        inside = slice(stride // 2, -(stride // 2))
        expected = F.interpolate(x, scale_factor=stride, mode="bilinear")[:, :, inside, inside]
        upsampled = upsampled[:, :, inside, inside][:, :, inside, inside]
    torch.testing.assert_close(upsampled, expected)


def test_cropping_takes_the_centre_or_begins_at_an_offset() -> None:
    x = torch.arange(64.0).view(1, 1, 8, 8)
    assert torch.equal(crop(x, like=x[:, :, :4, :2]), x[:, :, 2:6, 3:5])
    assert torch.equal(crop(x, x[:, :, :4, :2], offset=1), x[:, :, 1:5, 1:3])


@pytest.mark.parametrize(
    ("name", "input", "params", "macs"),
    [
        ("unet", (1, 572, 572), 31_030_658, 150_428_424_448),
        ("fcn32s", (3, 500, 500), 136_152_917, 181_365_854_976),
        ("fcn16s", (3, 500, 500), 134_815_994, 181_448_086_272),
        ("fcn8s", (3, 500, 500), 134_489_759, 181_529_034_048),
    ],
)
def test_parameters_and_multiply_adds_are_the_reference_counts(
    name: str, input: tuple[int, int, int], params: int, macs: int
) -> None:
    with torch.device("meta"):
        report = analysis.analyze(DENSE[name](), input)
    assert (report.params, report.macs) == (params, macs)


@pytest.mark.parametrize(
    ("backbone", "convolutions", "millions"),
    [("alexnet", 8, "57M"), ("vgg16", 16, "134M"), ("googlenet", 58, "6M")],
)
def test_the_backbones_have_table_1s_parameters_without_the_upsampling(
    backbone: str, convolutions: int, millions: str
) -> None:
    with torch.device("meta"):
        model = fcn32s(backbone=backbone)
    params = sum(p.numel() for path, p in model.named_parameters() if not path.startswith(model.frozen_layer))
    assert f"{params / 1e6:.0f}M" == millions
    # for GoogLeNet Table 1 prints 22, because it counts the depth of a module
    assert sum(isinstance(module, nn.Conv2d) for module in model.modules()) == convolutions


def test_unet_has_the_shapes_of_figure_1() -> None:
    shapes: dict[str, list[tuple[int, ...]]] = {}  # of input and output

    def record(name: str, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        shapes[name] = [tuple(inputs[0].shape[1:]), tuple(output.shape[1:])]

    with torch.device("meta"):
        model = UNet()
        for name, layer in model.named_modules():
            layer.register_forward_hook(partial(record, name))
        model(torch.empty(1, 1, 572, 572))
    assert sum(isinstance(module, nn.Conv2d | nn.ConvTranspose2d) for module in model.modules()) == 23
    printed = [
        ("contract1", 1, 572, 570, 568),
        ("contract2", 64, 284, 282, 280),
        ("contract3", 128, 140, 138, 136),
        ("contract4", 256, 68, 66, 64),
        ("bottom", 512, 32, 30, 28),
        ("expand4", 1024, 56, 54, 52),
        ("expand3", 512, 104, 102, 100),
        ("expand2", 256, 200, 198, 196),
        ("expand1", 128, 392, 390, 388),
    ]
    channels = dict(
        zip([row[0] for row in printed], [64, 128, 256, 512, 1024, 512, 256, 128, 64], strict=True)
    )
    for name, c_in, first, middle, last in printed:
        c = channels[name]
        assert shapes[f"{name}.conv1"] == [(c_in, first, first), (c, middle, middle)]
        assert shapes[name] == [(c_in, first, first), (c, last, last)]
    levels_below = [("expand2", 128), ("expand3", 256), ("expand4", 512), ("bottom", 1024)]
    for level, (below, c_in) in enumerate(levels_below, start=1):
        side = 2 * shapes[below][1][1]
        assert shapes[f"up{level}"] == [shapes[below][1], (c_in // 2, side, side)]
        assert shapes[f"pool{level}"][0] == shapes[f"contract{level}"][1]
    assert shapes["score"] == [(64, 388, 388), (2, 388, 388)]


def test_unet_concatenates_the_centre_of_the_copied_maps_first() -> None:
    """With kernels that copy their centre, the path of level 1 is a crop by 92: the output is the central
    pixels."""
    model = UNet(num_classes=1, width=1 / 64, dropout=0.0)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                module.weight.zero_()
                module.weight[0, 0, module.kernel_size[0] // 2, module.kernel_size[1] // 2] = 1
            elif isinstance(module, nn.ConvTranspose2d):
                module.weight.zero_()
    images = torch.rand(2, 1, 204, 188)
    assert torch.equal(model(images), images[:, :, 92:-92, 92:-92])


def test_unets_initial_weights_have_the_papers_deviation() -> None:
    torch.manual_seed(0)
    model = UNet(width=0.5)
    fan_in = {"contract2.conv2": 9 * 64, "bottom.conv1": 9 * 256, "expand4.conv1": 9 * 512, "up4": 512}
    for name, incoming in fan_in.items():
        layer = model.get_submodule(name)
        assert isinstance(layer.weight, Tensor)
        assert layer.weight.std().item() == pytest.approx((2 / incoming) ** 0.5, rel=0.02)
        assert not layer.bias.any()  # type: ignore[operator]


@pytest.mark.parametrize("name", ["fcn32s", "fcn16s", "fcn8s", "fcn32s-alexnet", "fcn32s-googlenet"])
@pytest.mark.parametrize("size", [(1, 2), (31, 65), (97, 128), (333, 500)])
def test_fcn_logits_have_the_grid_of_the_images(name: str, size: tuple[int, int]) -> None:
    with torch.device("meta"):
        model = DENSE[name](num_classes=5, in_chans=2, width=0.1)
        assert model(torch.empty(3, 2, *size)).shape == (3, 5, *size)


@pytest.mark.parametrize(
    ("backbone", "windows", "variant"),
    [
        ("vgg16", [(3, 1, 100), *[(2, 2, 0)] * 5, (7, 1, 0)], "FCN-32s"),
        ("vgg16", [(3, 1, 100), *[(2, 2, 0)] * 4], "FCN-16s"),
        ("vgg16", [(3, 1, 100), *[(2, 2, 0)] * 3], "FCN-8s"),
        ("alexnet", [(11, 4, 100), *[(3, 2, 0)] * 3, (6, 1, 0)], "FCN-32s"),
        ("googlenet", [(7, 2, 100), *[(3, 2, 0)] * 4], "FCN-32s"),
    ],
)
def test_crops_align_every_score_with_the_centre_of_its_receptive_field(
    backbone: str, windows: list[tuple[int, int, int]], variant: str
) -> None:
    stride = 1  # of the grid; windows that keep the grid change neither value
    start = 0.0  # the input coordinate of the grid's first cell
    for kernel, window_stride, padding in windows:
        start += ((kernel - 1) / 2 - padding) * stride
        stride *= window_stride
    with torch.device("meta"):
        model = FCN(TABLE_2[variant], backbone=backbone, width=0.1)
    upsampling = model.upsampling
    assert upsampling.stride == stride
    skip_crop = model.skips[-1].crop if model.skips else 0
    assert skip_crop * stride + start == (upsampling.kernel - 1) / 2 - upsampling.crop


def build_vgg(column: str, batch_norm: bool = False, **arguments: Any) -> vgg.VGG:
    return vgg.VGG(column, glorot_uniform, batch_norm, adaptive=False, **arguments)


def classifier(name: str) -> Network:
    torch.manual_seed(1)
    if name == "vgg16":
        return build_vgg("D", num_classes=3, width=0.125).eval()
    if name == "alexnet":
        return alexnet.AlexNet(alexnet.PAPER, num_classes=3, width=0.125).eval()
    return googlenet.GoogLeNet(googlenet.Parts(), num_classes=3, width=0.125).eval()


@pytest.mark.parametrize(
    ("backbone", "first", "padding", "side", "last"),
    [
        ("vgg16", "conv1_1", 1, 224, "relu7"),
        ("alexnet", "conv1", 0, 227, "relu7"),
        ("googlenet", "conv1.conv", 3, 224, "inception_5b"),
    ],
)
def test_a_classifiers_layers_give_the_same_features_as_convolutions(
    backbone: str, first: str, padding: int, side: int, last: str
) -> None:
    source = classifier(backbone)
    model = fcn32s(backbone=backbone, num_classes=3, width=0.125).eval()
    init_from(model, source)
    features: list[Tensor] = []
    source.get_submodule(last).register_forward_hook(lambda module, inputs, y: features.append(y.clone()))
    # with the classifier's padding the map has one position, which covers the whole image
    model.get_submodule(first).padding = (padding, padding)  # type: ignore[assignment]
    with torch.no_grad():
        x = images = torch.randn(2, 3, side, side)
        source(images)
        for name in model.trunk:
            x = model.get_submodule(name)(x)
    assert features[0].abs().sum() > 0
    torch.testing.assert_close(x.flatten(1), features[0].flatten(1), rtol=1e-4, atol=1e-6)


def test_new_skips_do_not_change_a_coarser_nets_predictions() -> None:
    """Exact midway between the coarse scores; near them, two successive interpolations smooth the peaks of
    one."""
    torch.manual_seed(0)
    coarse, middle, fine = (make(num_classes=3, width=0.125).eval() for make in (fcn32s, fcn16s, fcn8s))
    init_from(coarse, classifier("vgg16"))
    nn.init.normal_(coarse.score_fr.weight)
    init_from(middle, coarse)
    init_from(fine, middle)
    with torch.no_grad():
        images = 30 * torch.randn(1, 3, 150, 150)
        expected = coarse(images)
        finer_logits = [model(images) for model in (middle, fine)]
    assert expected.std() > 1e-4
    position = (torch.arange(150) - 12.5) / 32  # in units of the coarse grid
    inside = (position > 0.6) & (position < 3.4)
    midway = inside & ((position % 1 - 0.5).abs() <= 0.125)
    assert midway.sum() > 10
    for logits in finer_logits:
        torch.testing.assert_close(
            logits[:, :, midway][..., midway], expected[:, :, midway][..., midway], rtol=1e-4, atol=1e-6
        )
        difference = (logits - expected)[:, :, inside][..., inside].abs().mean()
        assert (difference < 0.15 * expected.std()).item()


def test_learned_skips_are_copied_into_the_finer_net() -> None:
    middle = fcn16s(num_classes=3, width=0.05)
    fine = fcn8s(num_classes=3, width=0.05)
    for parameter in middle.parameters():
        nn.init.normal_(parameter)
    init_from(fine, middle)
    for path in ("conv3_2.weight", "fc6.bias", "score_fr.weight", "upscore2.weight", "score_pool4.bias"):
        assert torch.equal(fine.get_parameter(path), middle.get_parameter(path))
    assert not fine.get_parameter("score_pool3.weight").any()
    assert torch.equal(fine.get_parameter("upscore8.weight")[0, 0], bilinear_kernel(16))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (lambda: build_vgg("D", width=0.1), "conv1_1.weight has shape"),
        (lambda: build_vgg("D", width=0.05, image_size=256), "fc6.weight has shape"),
        (lambda: build_vgg("D", batch_norm=True, width=0.05), r"norm1_1.weight of VGG has no counterpart"),
        (lambda: build_vgg("B", width=0.05), "conv3_3.weight of the FCN has no counterpart"),
        (lambda: fcn16s(width=0.05), "upscore2.weight of FCN has no counterpart"),
        (lambda: fcn32s(width=0.05, num_classes=4), "score_fr.weight has shape"),
    ],
)
def test_a_source_that_does_not_fit_is_refused_before_copying(
    source: Callable[[], Network], message: str
) -> None:
    model = fcn32s(width=0.05)
    before = [p.clone() for p in model.parameters()]
    with pytest.raises(ValueError, match=message):
        init_from(model, source())
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


@pytest.mark.parametrize("side", [188, 204])
def test_unet_takes_its_smallest_sizes_and_smaller_ones_fail(side: int) -> None:
    with torch.device("meta"):
        model = UNet(width=0.1)
        assert model(torch.empty(1, 1, side, 188)).shape == (1, 2, side - 184, 4)
        model.min_size = 188 - 16
        with pytest.raises(RuntimeError):
            model(torch.empty(1, 1, side, 172))


def test_unets_output_has_figure_1s_size_at_every_valid_tile() -> None:
    """Fig. 1: two convolutions lose 4 pixels on each level, pooling halves, an up-convolution doubles."""
    assert UNet.margin == (572 - 388) // 2  # Fig. 1 prints 572 and 388
    with torch.device("meta"):
        model = UNet(width=0.05)
        for side in range(188, 701, 16):
            grid = side
            for _ in range(4):
                assert (grid - 4) % 2 == 0
                grid = (grid - 4) // 2
            grid -= 4
            for _ in range(4):
                grid = 2 * grid - 4
            assert grid == side - 2 * UNet.margin
            assert model(torch.empty(1, 1, side, 188)).shape[2:] == (grid, 4)
            sizes = {model.image_size_for((grid - less, grid)) for less in range(16) if less < grid}
            assert sizes == {(side, side)}


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ((187, 572), r"at least 188x188, so that expand3 has a grid to work on, not 187x572"),
        (
            (512, 512),
            r"188, 204, 220 and so on.* even grid, not 512x512: crop them to 508x508, or mirror their "
            r"borders to 524x524",
        ),
        ((573, 572), r"not 573x572: crop them to 572x572, or mirror their borders to 588x572"),
        ((188, 203), r"not 188x203: crop them to 188x188, or mirror their borders to 188x204"),
    ],
)
def test_unet_names_the_sizes_that_it_takes_in_one_sentence(size: tuple[int, int], message: str) -> None:
    with torch.device("meta"), pytest.raises(UsageError, match=message) as error:
        UNet(width=0.1)(torch.empty(1, 1, *size))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (partial(fcn16s, backbone="alexnet"), "built on vgg16 alone, not on alexnet"),
        (partial(fcn8s, backbone="googlenet"), "built on vgg16 alone, not on googlenet"),
        (partial(fcn32s, backbone="vgg19"), "unknown backbone 'vgg19': the nearest is 'vgg16'"),
    ],
)
def test_a_backbone_that_the_paper_does_not_have_is_refused(
    build: Callable[[], Network], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        build()


@pytest.mark.parametrize("name", list(DENSE))
def test_the_classifier_is_the_layer_that_scores(name: str) -> None:
    with torch.device("meta"):
        model = DENSE[name](num_classes=7, width=0.1)
    layer = model.get_submodule(model.classifier)
    assert isinstance(layer, nn.Conv2d)
    assert layer.out_channels == 7


@pytest.mark.parametrize(
    ("name", "side", "lr", "steps"),
    [("unet", 188, 3e-3, 40), ("fcn32s", 32, 1e-3, 40), ("fcn8s", 32, 1e-3, 40)],
)
def test_a_thin_net_overfits_one_tiny_image(name: str, side: int, lr: float, steps: int) -> None:
    torch.manual_seed(0)
    model = DENSE[name](num_classes=2, in_chans=1, width=0.125, dropout=0.0)
    images = torch.randn(1, 1, side, side)
    with torch.no_grad():
        grid = model(images).shape[2:]
    labels = (torch.arange(grid[1]) >= grid[1] // 2).long().expand(1, *grid)
    optimizer = torch.optim.Adam(model.parameters(), lr)
    losses = []
    for _ in range(steps):
        losses.append(F.cross_entropy(model(images), labels))
        optimizer.zero_grad()
        losses[-1].backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert losses[-1] < 0.2 * losses[0]
