"""The formulas against the papers' worked examples, and against torch."""

from collections.abc import Callable, Iterator

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from convatlas import analysis
from convatlas.analysis import formulas as f
from convatlas.errors import UsageError

small = st.integers(1, 5)


@given(
    size=st.integers(1, 30), kernel=small, stride=small, padding=st.integers(0, 3), dilation=st.integers(1, 3)
)
def test_a_convolutions_output_has_torchs_size(
    size: int, kernel: int, stride: int, padding: int, dilation: int
) -> None:
    assume(size + 2 * padding > dilation * (kernel - 1))
    images = torch.empty(1, 1, size, device="meta")
    weights = torch.empty(1, 1, kernel, device="meta")
    out = F.conv1d(images, weights, None, stride, padding, dilation)
    assert f.output_size(size, kernel, stride, padding, dilation) == out.shape[-1]


@given(size=st.integers(1, 30), kernel=small, stride=small, padding=st.integers(0, 2), ceil=st.booleans())
def test_a_poolings_output_has_torchs_size(
    size: int, kernel: int, stride: int, padding: int, ceil: bool
) -> None:
    assume(size + 2 * padding >= kernel and 2 * padding <= kernel)
    images = torch.empty(1, 1, size, device="meta")
    out = F.max_pool1d(images, kernel, stride, padding, ceil_mode=ceil)
    assert f.output_size(size, kernel, stride, padding, ceil=ceil) == out.shape[-1]


@given(st.integers(1, 9), small, small, st.integers(0, 2), st.integers(1, 3), st.integers(0, 4))
def test_a_transposed_convolutions_output_has_torchs_size(
    size: int, kernel: int, stride: int, padding: int, dilation: int, output_padding: int
) -> None:
    assume(output_padding < max(stride, dilation))
    expected = f.transposed_output_size(size, kernel, stride, padding, dilation, output_padding)
    assume(expected > 0)
    images = torch.empty(1, 1, size, device="meta")
    weights = torch.empty(1, 1, kernel, device="meta")
    out = F.conv_transpose1d(images, weights, None, stride, padding, output_padding, 1, dilation)
    assert out.shape[-1] == expected


@given(st.integers(1, 30), small, small, st.integers(0, 3), st.integers(1, 3))
def test_a_transposed_convolution_restores_the_shape(
    size: int, kernel: int, stride: int, padding: int, dilation: int
) -> None:
    assume(size + 2 * padding > dilation * (kernel - 1))
    out_size = f.output_size(size, kernel, stride, padding, dilation)
    output_padding = (size + 2 * padding - dilation * (kernel - 1) - 1) % stride
    assert f.transposed_output_size(out_size, kernel, stride, padding, dilation, output_padding) == size


def test_a_transposed_convolution_does_not_restore_values() -> None:
    images = torch.randn(1, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    kernel = torch.ones(1, 1, 3, 3)
    restored = F.conv_transpose2d(F.conv2d(images, kernel), kernel)
    assert restored.shape == images.shape
    assert not torch.allclose(restored, images, rtol=0.1)


def test_stacked_and_dilated_kernels_have_a_large_kernels_receptive_field() -> None:
    assert [f.receptive_field([(3, 1, 1)] * n) for n in (1, 2, 3)] == [3, 5, 7]
    assert [f.receptive_field([(3, 1, 2**i) for i in range(n)]) for n in (1, 2, 3, 4)] == [3, 7, 15, 31]
    assert f.receptive_field([(3, 1, 1), (3, 1, 2)]) == 7  # 2-dilated on top of 1-dilated
    # For each pair of channels, four dilated kernels have 4 * 9 weights; one with their field has 31^2.
    assert (f.convolution_params(1, 1, 31), 4 * f.convolution_params(1, 1, 3)) == (961, 36)


LAYERS = [
    nn.Conv2d(128, 64, 3, padding=1),
    nn.Conv2d(96, 256, 5, padding=2, groups=2),
    nn.Conv2d(16, 24, (1, 7), stride=2, padding=(0, 3), bias=False),
    nn.Conv2d(8, 8, 3, dilation=2, groups=8),
]


@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_a_convolutions_cost_is_that_of_a_trace(layer: nn.Conv2d) -> None:
    report = analysis.analyze(layer, (layer.in_channels, 28, 20))
    channels = (layer.in_channels, layer.out_channels)
    kernel = tuple(layer.kernel_size)
    output = report.rows[0].output_shape[2:]
    bias = layer.bias is not None
    assert f.convolution_params(*channels, kernel, layer.groups, bias) == report.params
    assert f.convolution_macs(*channels, kernel, output, layer.groups) == report.macs


def test_a_transposed_convolution_uses_its_weights_at_every_input_position() -> None:
    layer = nn.ConvTranspose2d(12, 6, 4, stride=2, bias=False)
    assert f.convolution_macs(12, 6, 4, 9) == analysis.analyze(layer, (12, 9, 9)).macs


def test_groups_divide_weights_and_multiply_adds() -> None:
    assert f.convolution_params(256, 256, 3) == 589_824
    assert f.convolution_params(256, 256, 3, groups=8) == 73_728
    assert f.convolution_macs(256, 256, 3, 14, groups=8) * 8 == f.convolution_macs(256, 256, 3, 14)


def test_two_3x3_save_28_percent_of_a_5x5() -> None:
    assert f.stack_ratio([3, 3], 5) == pytest.approx((9 + 9) / 25)
    assert round(100 * (1 - f.stack_ratio([3, 3], 5))) == 28
    assert f.convolution_params(1, 1, 5) / f.convolution_params(1, 1, 3) == pytest.approx(2.78, abs=0.005)


def test_two_2x2_save_11_percent_of_a_3x3() -> None:
    assert round(100 * (1 - f.stack_ratio([2, 2], 3))) == 11


def test_1xn_and_nx1_save_33_percent_of_a_3x3() -> None:
    assert round(100 * (1 - f.stack_ratio([(3, 1), (1, 3)], 3))) == 33
    assert f.stack_ratio([(1, 7), (7, 1)], 7) == pytest.approx(2 / 7)


def test_a_7x7_has_81_percent_more_weights_than_three_3x3() -> None:
    assert (3 * f.convolution_params(1, 1, 3), f.convolution_params(1, 1, 7)) == (27, 49)
    assert round(100 * (1 / f.stack_ratio([3, 3, 3], 7) - 1)) == 81


def test_grid_reduction_costs_2_d2_k2_a_quarter_and_an_eighth() -> None:
    d, k = 36, 320
    costs = f.grid_reduction(d, k)
    assert costs.convolve_then_pool == 2 * d**2 * k**2
    assert costs.pool_then_convolve == 2 * (d // 2) ** 2 * k**2
    assert costs.side_by_side * 2 == costs.pool_then_convolve
    assert (costs.before, costs.bottleneck, costs.after) == (414_720, 103_680, 207_360)


def test_the_three_grid_reductions_cost_what_a_trace_counts() -> None:
    def count_macs(*layers: nn.Module) -> int:
        return analysis.analyze(nn.Sequential(*layers), (16, 8, 8)).macs

    costs = f.grid_reduction(8, 16)
    assert count_macs(nn.Conv2d(16, 32, 1), nn.MaxPool2d(2)) == costs.convolve_then_pool
    assert count_macs(nn.MaxPool2d(2), nn.Conv2d(16, 32, 1)) == costs.pool_then_convolve
    assert count_macs(nn.Conv2d(16, 16, 1, stride=2)) == costs.side_by_side


def test_a_fully_connected_head_has_49_times_the_weights_of_a_pooled_one() -> None:
    dense = f.fully_connected_head_params(512, 7, 4096)
    pooled = f.pooled_head_params(512, 4096)
    assert (dense, pooled, dense // pooled) == (102_760_448, 2_097_152, 49)


def vgg16_shapes() -> Iterator[tuple[int, ...]]:
    """The feature maps of configuration D of arXiv:1409.1556, Table 1."""
    side = 224
    yield 3, side, side
    for channels, convolutions in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        yield from [(channels, side, side)] * convolutions
        side //= 2
        yield channels, side, side
    yield from [(4096,), (4096,), (1000,)]


def test_vgg16s_15_million_activations_are_61_mb() -> None:
    assert f.activation_count(vgg16_shapes()) == 15_237_608
    assert round(4 * f.activation_count(vgg16_shapes()) / 1e6) == 61


@given(st.integers(1, 2048), st.integers(1, 2048), st.sampled_from([1, 3, 5, 7]), st.integers(1, 112))
def test_a_separable_convolution_costs_1_over_n_plus_1_over_k2(m: int, n: int, k: int, d: int) -> None:
    ratio = f.separable_macs(m, n, k, d) / f.convolution_macs(m, n, k, d)
    assert ratio == pytest.approx(f.separable_ratio(n, k))


def test_mobilenets_layers_cost_8_to_9_times_less() -> None:
    assert 8 < 1 / f.separable_ratio(512, 3) < 9  # arXiv:1704.04861, sec. 3.1


def test_doubling_all_filters_costs_four_times() -> None:
    assert f.convolution_macs(2 * 64, 2 * 64, 3, 28) == 4 * f.convolution_macs(64, 64, 3, 28)


def test_a_shared_kernel_has_fewer_weights_than_local_or_dense_layers() -> None:
    shared = f.convolution_params(3, 6, 5)  # as in LeNet: 32x32 in, 28x28 out
    local = f.locally_connected_params(3, 6, 5, 28)
    dense = f.dense_params(3 * 32 * 32, 6 * 28 * 28)
    assert (shared, local, dense) == (450, 450 * 28 * 28, 3072 * 4704)


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 3), st.integers(0, 2**31))
def test_gradients_through_pooling_are_those_of_autograd(h: int, w: int, kernel: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    shape = (2, 3, h * kernel, w * kernel)
    images = torch.randint(0, 3, shape, generator=generator).double().requires_grad_()  # with ties
    gradient = torch.randn(2, 3, h, w, generator=generator, dtype=torch.float64)

    def autograd(out: Tensor) -> Tensor:
        return torch.autograd.grad(out, images, gradient)[0]

    average = f.average_pool_gradient(gradient, kernel)
    maximum = f.max_pool_gradient(gradient, images.detach(), kernel)
    torch.testing.assert_close(average, autograd(F.avg_pool2d(images, kernel)))
    torch.testing.assert_close(maximum, autograd(F.max_pool2d(images, kernel)))
    torch.testing.assert_close(average.sum(), gradient.sum())
    torch.testing.assert_close(maximum.sum(), gradient.sum())


def test_an_epochs_last_batch_counts_unless_it_is_dropped() -> None:
    assert f.iterations_per_epoch(1_281_167, 256) == 5_005
    assert f.iterations_per_epoch(1_281_167, 256, drop_last=True) == 5_004


def test_vggs_370_thousand_iterations_are_74_epochs() -> None:
    assert round(f.epochs(370_000, 256, 1_281_167)) == 74


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: f.output_size(4, 7), "a kernel of 7, dilation 1, does not fit into a side of 4 padded by 0"),
        (lambda: f.convolution_params(6, 4, 3, groups=4), "4 groups do not divide 6 channels"),
        (lambda: f.stack_ratio([3, 3], 7), "a receptive field of 5x5, not 7x7"),
        (lambda: f.grid_reduction(35, 320), "the grid's side is 35: expected an even number"),
    ],
)
def test_impossible_sizes_are_refused_by_a_sentence(call: Callable[[], object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        call()
