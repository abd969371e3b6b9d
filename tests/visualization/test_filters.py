"""The filters of the first layer, and their image."""

import numpy as np
import pytest
import torch

from convatlas import models, visualization
from convatlas.errors import UserError
from convatlas.visualization.filters import draw_filters


@pytest.mark.parametrize(
    ("shape", "num_rows", "num_columns"),
    [((8, 3, 3, 3), 1, 8), ((32, 1, 5, 5), 4, 8), ((4, 2, 3, 3), 1, 8), ((96, 3, 7, 7), 8, 12)],
)
def test_filters_are_drawn_side_by_side_on_grey(
    shape: tuple[int, ...], num_rows: int, num_columns: int
) -> None:
    filters = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    filters[0] = 0
    image = draw_filters(filters)
    assert image.dtype == np.uint8
    stride = (image.shape[1] + 2) // num_columns  # a filter and the gap of 2 pixels
    assert image.shape == (num_rows * stride - 2, num_columns * stride - 2, 3)
    side = stride - 2
    scale = side // shape[3]
    assert (image[:side, :side] == 128).all()
    second = image[:side, stride : stride + side][::scale, ::scale]
    # two channels are two images: the second image is the first filter's second channel
    expected = (filters[1] if shape[1] != 2 else filters[0, 1:]) * torch.ones(3, 1, 1)
    peak = float(expected.abs().max())
    drawn = (second.transpose(2, 0, 1) / 127.5 - 1) * (peak or 1)
    np.testing.assert_allclose(drawn, expected, atol=0.005 * (peak or 1))
    assert peak == 0 or second.min() == 0 or second.max() == 255


def test_the_first_filters_are_those_of_the_first_convolution() -> None:
    path, filters = visualization.first_filters(models.create_model("inception_v3", width=0.25))
    assert (path, filters.shape) == ("Conv2d_1a_3x3.conv", (8, 3, 3, 3))
    with pytest.raises(UserError, match="no convolution"):
        visualization.first_filters(torch.nn.Linear(3, 2))
