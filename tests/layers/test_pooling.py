"""The auxiliary heads' pooling."""

import pytest
import torch
import torch.nn.functional as F

from convatlas.layers.pooling import PoolToGrid


@pytest.mark.parametrize(("printed_for", "grid"), [(14, 4), (17, 5)])
def test_the_printed_grid_is_pooled_as_printed_and_any_other_to_the_same_size(printed_for: int, grid: int) -> None:
    pool = PoolToGrid(kernel=5, stride=3, printed_for=printed_for)
    x = torch.randn(2, 3, printed_for, printed_for)
    windows = x.unfold(2, 5, 3).unfold(3, 5, 3).mean((4, 5))
    torch.testing.assert_close(pool(x), windows)
    assert pool(x).shape[2:] == (grid, grid)
    for side in (1, 4, 9, 33):
        other = torch.randn(2, 3, side, side)
        assert torch.equal(pool(other), F.adaptive_avg_pool2d(other, grid))
