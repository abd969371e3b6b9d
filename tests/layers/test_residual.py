"""The shortcuts of sec. 3.3 of arXiv:1512.03385 against their definition."""

import numpy as np
import torch
from torch import nn

from convatlas.layers.residual import SHORTCUTS, PaddedIdentity, Residual


def test_option_a_takes_every_other_pixel_and_pads_channels_with_zeros() -> None:
    x = np.random.default_rng(0).normal(size=(2, 3, 6, 8))
    y = PaddedIdentity(3, 5, 2)(torch.from_numpy(x)).numpy()
    assert y.shape == (2, 5, 3, 4)
    for i in range(3):
        for j in range(4):
            assert (y[:, :3, i, j] == x[:, :, 2 * i, 2 * j]).all()
    assert (y[:, 3:] == 0).all()


def test_only_option_c_projects_where_shapes_agree() -> None:
    same_shape = {option: type(build(16, 16, 1)) for option, build in SHORTCUTS.items()}
    assert same_shape == {"A": nn.Identity, "B": nn.Identity, "C": nn.Sequential}
    other_shape = {option: type(build(16, 32, 2)) for option, build in SHORTCUTS.items()}
    assert other_shape == {"A": PaddedIdentity, "B": nn.Sequential, "C": nn.Sequential}


def test_a_block_is_relu_of_function_plus_shortcut() -> None:
    x = torch.randn(4)
    function = nn.Linear(4, 4, bias=False)
    with torch.no_grad():
        function.weight.copy_(-2 * torch.eye(4))
        torch.testing.assert_close(Residual(function, nn.Identity())(x), (-x).relu())
        torch.testing.assert_close(Residual(function, None)(x), (-2 * x).relu())
