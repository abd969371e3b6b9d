"""MobileNet, Xception and the ShuffleNets against the tables and equations of their papers."""

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from convatlas import analysis
from convatlas.errors import UsageError
from convatlas.layers.init import he_normal
from convatlas.layers.shuffle import ChannelShuffle
from convatlas.layers.squeeze_excite import SqueezeExcite
from convatlas.models import mobilenet, shufflenet, shufflenet_v2, xception
from convatlas.models.mobilenet import MobileNet
from convatlas.models.network import ModelEntry, Network
from convatlas.models.shufflenet import ShuffleNet
from convatlas.models.shufflenet_v2 import ShuffleNetV2, Split
from convatlas.models.xception import Xception


def on_meta(builder: Callable[[], Network]) -> Network:
    with torch.device("meta"):
        return builder().eval()


def cost(builder: Callable[[], Network], size: int = 224) -> tuple[int, int]:
    """Parameters and multiply-adds."""
    report = analysis.analyze(on_meta(builder), (3, size, size))
    return report.params, report.macs


def output_shapes(network: Network, size: int) -> dict[str, tuple[int, ...]]:
    """The output shape of each child of the network, without the batch."""
    x = torch.empty(1, 3, size, size, device="meta")
    shapes = {}
    for name, layer in network.named_children():
        x = layer(x)
        shapes[name] = tuple(x.shape[1:])
    return shapes


def convolution_shapes(
    network: Network, size: int
) -> list[tuple[tuple[int, ...], int, int, tuple[int, ...]]]:
    """(filter shape, groups, stride, input shape) of each convolution in the order of execution."""
    shapes = []

    def record(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(layer, nn.Conv2d)
        input_shape = tuple(inputs[0].shape[1:])
        shapes.append((tuple(layer.weight.shape), layer.groups, layer.stride[0], input_shape))

    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_pre_hook(record)
    network(torch.empty(1, 3, size, size, device="meta"))
    return shapes


# arXiv:1704.04861, Table 1: type / stride, filter shape (height, width, in, out), input; the paper prints 2
# as the stride of the last "Conv dw"
MOBILENET_TABLE_1 = [
    ("Conv / s2", "3x3x3x32", "224x224x3"),
    ("Conv dw / s1", "3x3x32 dw", "112x112x32"),
    ("Conv / s1", "1x1x32x64", "112x112x32"),
    ("Conv dw / s2", "3x3x64 dw", "112x112x64"),
    ("Conv / s1", "1x1x64x128", "56x56x64"),
    ("Conv dw / s1", "3x3x128 dw", "56x56x128"),
    ("Conv / s1", "1x1x128x128", "56x56x128"),
    ("Conv dw / s2", "3x3x128 dw", "56x56x128"),
    ("Conv / s1", "1x1x128x256", "28x28x128"),
    ("Conv dw / s1", "3x3x256 dw", "28x28x256"),
    ("Conv / s1", "1x1x256x256", "28x28x256"),
    ("Conv dw / s2", "3x3x256 dw", "28x28x256"),
    ("Conv / s1", "1x1x256x512", "14x14x256"),
    *[("Conv dw / s1", "3x3x512 dw", "14x14x512"), ("Conv / s1", "1x1x512x512", "14x14x512")] * 5,
    ("Conv dw / s2", "3x3x512 dw", "14x14x512"),
    ("Conv / s1", "1x1x512x1024", "7x7x512"),
    ("Conv dw / s1", "3x3x1024 dw", "7x7x1024"),
    ("Conv / s1", "1x1x1024x1024", "7x7x1024"),
]


def test_the_convolutions_of_mobilenet_are_the_lines_of_table_1() -> None:
    lines = []
    network = on_meta(partial(MobileNet, mobilenet.Parts()))
    for (c_out, c_in, *kernel), groups, stride, (c, h, w) in convolution_shapes(network, 224):
        size = "x".join(map(str, kernel))
        shape = f"{size}x{groups} dw" if groups == c_out == c and c_in == 1 else f"{size}x{c_in}x{c_out}"
        lines.append((f"Conv{' dw' * shape.endswith('dw')} / s{stride}", shape, f"{h}x{w}x{c}"))
    assert lines == MOBILENET_TABLE_1


@pytest.mark.parametrize("size", [224, 192, 160, 128])
def test_mobilenets_last_grid_is_a_32nd_of_the_image(size: int) -> None:
    shapes = output_shapes(on_meta(partial(MobileNet, mobilenet.Parts(), width=0.75)), size)
    assert shapes["block13"] == (768, size // 32, size // 32)
    assert shapes["avgpool"] == (768, 1, 1)


@pytest.mark.parametrize(
    ("parts", "counts"),
    [(mobilenet.CONV, (29_294_088, 4_867_293_184)), (mobilenet.SHALLOW, (2_887_976, 307_323_392))],
)
def test_the_networks_of_comparison_have_the_cost_of_tables_4_and_5(
    parts: mobilenet.Parts, counts: tuple[int, int]
) -> None:
    assert cost(partial(MobileNet, parts)) == counts


def block_macs(block: Callable[[int, int, int], nn.Module], m: int, n: int, side: int) -> int:
    with torch.device("meta"):
        return analysis.analyze(block(m, n, 1), (m, side, side)).macs


@pytest.mark.parametrize(("m", "n", "side"), [(32, 64, 112), (512, 512, 14), (16, 32, 1), (7, 5, 3)])
def test_the_cost_of_separable_convolutions_follows_equations_2_to_6(m: int, n: int, side: int) -> None:
    standard = block_macs(mobilenet.standard_conv, m, n, side)
    separable = block_macs(mobilenet.separable_conv, m, n, side)
    assert standard == 3 * 3 * m * n * side * side  # eq. 2
    assert separable == 3 * 3 * m * side * side + m * n * side * side  # eq. 4 and 5
    assert separable / standard == pytest.approx(1 / n + 1 / 3**2)
    wide = block_macs(mobilenet.separable_conv, 3 * m, 3 * n, side)  # eq. 6: its alpha of 1/3 gives m and n
    assert wide == 3 * 3 * 3 * m * side * side + 9 * m * n * side * side


# Table 3: million multiply-adds, million parameters
@pytest.mark.parametrize(
    ("block", "channels", "side", "printed"),
    [
        (mobilenet.standard_conv, 512, 14, ("462", "2.36")),
        (mobilenet.separable_conv, 512, 14, ("52.3", "0.27")),
        (mobilenet.separable_conv, 384, 14, ("29.6", "0.15")),
        (mobilenet.separable_conv, 384, 10, ("15.1", "0.15")),
    ],
)
def test_the_cost_of_a_layer_is_that_of_table_3(
    block: Callable[[int, int, int], nn.Module], channels: int, side: int, printed: tuple[str, str]
) -> None:
    with torch.device("meta"):
        layer = block(channels, channels, 1)
    macs = analysis.analyze(layer, (channels, side, side)).macs / 1e6
    weights = sum(p.numel() for p in layer.parameters() if p.dim() == 4) / 1e6
    assert (f"{macs:.{1 if macs < 100 else 0}f}", f"{weights:.2f}") == printed


def test_squeeze_and_excitation_has_the_cost_of_the_senet_paper() -> None:
    se_layer = partial(SqueezeExcite, reduction=16, bias=False)
    params, macs = cost(partial(MobileNet, mobilenet.Parts(se_layer=se_layer)))
    shapes = output_shapes(on_meta(partial(MobileNet, mobilenet.Parts())), 224)
    squeeze_adds = sum(np.prod(shape) for name, shape in shapes.items() if "block" in name)
    assert f"{params / 1e6:.1f}" == "4.7"  # arXiv:1709.01507, Table 3
    assert f"{(macs + squeeze_adds) / 1e6:.0f}" == "572"  # the paper counts the squeezing too
    params, _ = cost(partial(ShuffleNet, shufflenet.Parts(se_layer=se_layer)))
    assert int(params / 1e5) / 10 == 2.4  # truncated, as its 1.8M for the 1,865,728 without


def test_xception_has_36_convolutions_in_14_modules() -> None:
    network = on_meta(partial(Xception, he_normal))
    flows = ["entry_flow", "middle_flow", "exit_flow"]
    assert list(network._modules)[:3] == flows
    blocks = [name for flow in flows for name in network.get_submodule(flow)._modules]
    assert blocks == [f"block{number}" for number in range(1, 15)]
    # a separable convolution, depthwise and 1x1, is one of the 36; the 1x1 shortcuts are not counted
    paths = [path for path, module in network.named_modules() if isinstance(module, nn.Conv2d)]
    assert len([path for path in paths if "shortcut" not in path and "depthwise" not in path]) == 36
    shapes = output_shapes(network, 299)
    assert shapes["entry_flow"] == shapes["middle_flow"] == (728, 19, 19)
    assert shapes["exit_flow"] == (2048, 10, 10)


def test_a_middle_module_of_xception_with_a_zero_branch_is_the_identity() -> None:
    block = xception.Block(4, [4, 4, 4], stride=1, first_relu=True).eval()
    nn.init.zeros_(block.function.get_parameter("sepconv3.pointwise.weight"))
    x = torch.randn(2, 4, 5, 5)
    before = x.clone()
    torch.testing.assert_close(block(x), before)  # negative values too: there is no ReLU after the addition
    assert torch.equal(x, before)  # and the first ReLU does not change the shortcut's input


@pytest.mark.parametrize(("groups", "n"), [(1, 6), (2, 2), (3, 4), (8, 12)])
def test_channel_shuffle_reshapes_to_g_by_n_transposes_and_flattens(groups: int, n: int) -> None:
    x = np.random.default_rng(0).normal(size=(2, groups * n, 3, 5))
    expected = np.stack(
        [image.reshape(groups, n, 3, 5).transpose(1, 0, 2, 3).reshape(groups * n, 3, 5) for image in x]
    )
    np.testing.assert_array_equal(ChannelShuffle(groups)(torch.from_numpy(x)).numpy(), expected)


def test_after_a_shuffle_every_group_has_channels_of_every_group() -> None:
    group_of = torch.arange(12).div(4, rounding_mode="floor").reshape(1, 12, 1, 1)
    for group in ChannelShuffle(3)(group_of).reshape(3, 4):
        assert sorted(set(group.tolist())) == [0, 1, 2]


# arXiv:1707.01083, Table 1
SHUFFLENET_CHANNELS = {
    1: (144, 288, 576),
    2: (200, 400, 800),
    3: (240, 480, 960),
    4: (272, 544, 1088),
    8: (384, 768, 1536),
}


@pytest.mark.parametrize("groups", SHUFFLENET_CHANNELS)
@pytest.mark.parametrize("edition", ["paper", "pytorchcv"])
def test_the_stages_of_shufflenet_have_the_shapes_of_table_1(groups: int, edition: str) -> None:
    shapes = output_shapes(on_meta(partial(shufflenet.ENTRIES[0].builders[edition], groups=groups)), 224)
    stage2, stage3, stage4 = SHUFFLENET_CHANNELS[groups]
    assert shapes == {
        "conv1": (24, 112, 112),
        "maxpool": (24, 56, 56),
        "stage2": (stage2, 28, 28),
        "stage3": (stage3, 14, 14),
        "stage4": (stage4, 7, 7),
        "globalpool": (stage4, 1, 1),
        "flatten": (stage4,),
        "dropout": (stage4,),
        "fc": (1000,),
    }


@pytest.mark.parametrize(("groups", "millions"), [(1, 143), (2, 140), (3, 137), (4, 133), (8, 137)])
def test_the_convolutions_of_shufflenet_have_the_complexity_of_table_1(groups: int, millions: int) -> None:
    network = on_meta(partial(ShuffleNet, shufflenet.Parts(), groups=groups))
    assert isinstance(network.fc, nn.Linear)
    macs = analysis.analyze(network, (3, 224, 224)).macs
    assert round((macs - network.fc.weight.numel()) / 1e6) == millions


def test_the_printed_cost_of_shufflenet_needs_a_scaled_conv1_except_at_1_5() -> None:
    def millions(width: float, parts: shufflenet.Parts) -> int:
        return round(cost(partial(ShuffleNet, parts, width=width))[1] / 1e6)

    scaled = shufflenet.Parts(conv1_channels=lambda width, multiple: int(24 * width))
    unscaled = shufflenet.Parts(conv1_channels=lambda width, multiple: 24)
    printed = {0.5: 38, 1.5: 292, 2.0: 524}
    assert {width: millions(width, shufflenet.Parts()) for width in printed} == printed
    assert {width: millions(width, scaled) for width in printed} == printed | {1.5: 300}
    assert {width: millions(width, unscaled) for width in printed} == printed | {0.5: 43, 2.0: 508}


@pytest.mark.parametrize("groups", SHUFFLENET_CHANNELS)
@pytest.mark.parametrize("width", [0.25, 0.3, 0.5, 0.75, 1.1])
def test_the_groups_of_shufflenet_divide_its_channels_at_any_width(groups: int, width: float) -> None:
    network = on_meta(partial(ShuffleNet, shufflenet.Parts(), width=width, groups=groups))
    shapes = output_shapes(network, 64)
    for stage, channels in zip(("stage2", "stage3", "stage4"), SHUFFLENET_CHANNELS[groups], strict=True):
        assert shapes[stage][0] % (4 * groups) == 0
        assert abs(shapes[stage][0] - channels * width) <= 2 * groups


# arXiv:1807.11164, Table 5: Stage2, Stage3, Stage4, Conv5
@pytest.mark.parametrize(
    ("width", "channels"),
    [
        (0.5, (48, 96, 192, 1024)),
        (1.0, (116, 232, 464, 1024)),
        (1.5, (176, 352, 704, 1024)),
        (2.0, (244, 488, 976, 2048)),
    ],
)
def test_the_stages_of_shufflenet_v2_have_the_shapes_of_table_5(
    width: float, channels: tuple[int, int, int, int]
) -> None:
    stage2, stage3, stage4, conv5 = channels
    assert output_shapes(on_meta(partial(ShuffleNetV2, he_normal, width=width)), 224) == {
        "conv1": (24, 112, 112),
        "maxpool": (24, 56, 56),
        "stage2": (stage2, 28, 28),
        "stage3": (stage3, 14, 14),
        "stage4": (stage4, 7, 7),
        "conv5": (conv5, 7, 7),
        "globalpool": (conv5, 1, 1),
        "flatten": (conv5,),
        "dropout": (conv5,),
        "fc": (1000,),
    }


@pytest.mark.parametrize("width", [0.25, 0.75, 1.25])
def test_widths_outside_table_5_scale_its_column_of_1(width: float) -> None:
    shapes = output_shapes(on_meta(partial(ShuffleNetV2, he_normal, width=width)), 64)
    for layer, channels in {"conv1": 24, "stage2": 116, "stage3": 232, "stage4": 464, "conv5": 1024}.items():
        assert abs(shapes[layer][0] - channels * width) <= 1


def test_a_split_unit_does_not_change_the_first_half_of_its_channels() -> None:
    x = torch.randn(2, 6, 4, 4)
    y = Split(nn.LeakyReLU(-1.0))(x)  # the absolute value
    assert torch.equal(y[:, :3], x[:, :3])
    assert torch.equal(y[:, 3:], x[:, 3:].abs())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"groups": 5}, "Table 1 has 1, 2, 3, 4, 8"), ({"width": 0.01}, "give a larger width")],
)
def test_shufflenet_refuses_other_groups_and_widths_too_small(
    arguments: dict[str, float], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        on_meta(partial(shufflenet.ENTRIES[0].builders["paper"], **arguments))


MOBILE_ENTRIES = [paper.ENTRIES[0] for paper in (mobilenet, xception, shufflenet, shufflenet_v2)]


@pytest.mark.parametrize("entry", MOBILE_ENTRIES, ids=lambda entry: entry.name)
def test_images_of_the_smallest_size_work_and_smaller_ones_are_refused(entry: ModelEntry) -> None:
    for builder in entry.builders.values():
        network = on_meta(builder)
        min_size, layer = network.min_size, network.min_size_layer
        assert network(torch.empty(1, 3, min_size, min_size + 1, device="meta")).shape == (1, 1000)
        if min_size > 1:
            with pytest.raises(UsageError, match=f"at least {min_size}x{min_size}, so that {layer}"):
                network(torch.empty(1, 3, min_size - 1, 64, device="meta"))
            assert network.get_submodule(layer)
