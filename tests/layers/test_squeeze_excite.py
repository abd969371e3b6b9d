"""Squeeze and excitation against eq. 2 to 4 of arXiv:1709.01507."""

import numpy as np
import torch

from convatlas.layers.squeeze_excite import SqueezeExcite


def test_each_channel_is_scaled_by_the_sigmoid_of_two_layers() -> None:
    torch.manual_seed(0)
    block = SqueezeExcite(8, reduction=4).double()
    u = np.random.default_rng(0).normal(size=(2, 8, 5, 3))
    w1, b1, w2, b2 = (p.detach().numpy().reshape(p.shape[0], -1) for p in block.parameters())
    outputs = block(torch.from_numpy(u)).detach().numpy()
    for image, output in zip(u, outputs, strict=True):
        z = image.reshape(8, -1).sum(1) / 15
        hidden = np.maximum(0, w1 @ z + b1[:, 0])
        s = 1 / (1 + np.exp(-(w2 @ hidden + b2[:, 0])))
        np.testing.assert_allclose(output, image * s[:, None, None], rtol=1e-12)


def test_without_biases_there_are_two_c_squared_over_r_weights() -> None:
    assert sum(p.numel() for p in SqueezeExcite(64, reduction=16, bias=False).parameters()) == 2 * 64**2 // 16
