"""The layers of LeNet-5 against the paper's equations in float64."""

import numpy as np
import torch

from convatlas.layers.lenet import EuclideanRBF, PartialConv2d, ScaledTanh, Subsample
from convatlas.models.lenet5 import C3

RNG = np.random.default_rng(0)


def test_scaled_tanh_is_a_tanh_sa_and_maps_1_and_minus_1_to_themselves() -> None:
    a = np.linspace(-3, 3, 13)
    f = ScaledTanh()(torch.from_numpy(a)).numpy()
    np.testing.assert_allclose(f, 1.7159 * np.tanh(2 * a / 3), rtol=1e-12)
    np.testing.assert_allclose(
        ScaledTanh()(torch.tensor([1.0, -1.0], dtype=torch.float64)), [1, -1], atol=1e-4
    )


def test_subsampling_is_a_coefficient_times_the_sum_of_four_plus_a_bias() -> None:
    layer = Subsample(3).double()
    x = RNG.normal(size=(2, 3, 6, 8))
    coefficient, bias = RNG.normal(size=(2, 3))
    with torch.no_grad():
        layer.coefficient.copy_(torch.from_numpy(coefficient).reshape(3, 1, 1))
        layer.bias.copy_(torch.from_numpy(bias).reshape(3, 1, 1))
        y = layer(torch.from_numpy(x)).numpy()
    for c in range(3):
        for i in range(3):
            for j in range(4):
                upper = x[:, c, 2 * i, 2 * j] + x[:, c, 2 * i, 2 * j + 1]
                lower = x[:, c, 2 * i + 1, 2 * j] + x[:, c, 2 * i + 1, 2 * j + 1]
                expected = coefficient[c] * (upper + lower) + bias[c]
                np.testing.assert_allclose(y[:, c, i, j], expected, rtol=1e-12)


def test_the_inputs_of_a_map_of_c3_are_those_of_its_row_in_table_1() -> None:
    layer = PartialConv2d(6, C3, 5).double()
    x = RNG.normal(size=(1, 6, 14, 14))
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(RNG.normal(size=(60, 5, 5))))
        layer.bias.copy_(torch.from_numpy(RNG.normal(size=16)))
        y = layer(torch.from_numpy(x)).numpy()
    kernel = iter(layer.weight.detach().numpy())
    for m, row in enumerate(C3):
        kernels = {i: next(kernel) for i in row}
        for r, s in ((0, 0), (3, 7), (9, 9)):
            weighted_sum = sum((x[0, i, r : r + 5, s : s + 5] * k).sum() for i, k in kernels.items())
            np.testing.assert_allclose(y[0, m, r, s], layer.bias[m].item() + weighted_sum, rtol=1e-10)


def test_table_1_has_60_connections_and_ten_for_every_map_of_s2() -> None:
    assert sum(map(len, C3)) == 60
    assert all(sum(i in row for row in C3) == 10 for i in range(6))


def test_logits_are_minus_the_squared_distances_to_the_codes() -> None:
    codes = RNG.choice([-1.0, 1.0], size=(10, 84))
    x = RNG.normal(size=(3, 84))
    y = EuclideanRBF(torch.from_numpy(codes))(torch.from_numpy(x)).numpy()
    expected = [[-sum((x[n, j] - codes[i, j]) ** 2 for j in range(84)) for i in range(10)] for n in range(3)]
    np.testing.assert_allclose(y, expected, rtol=1e-12)
