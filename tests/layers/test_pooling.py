"""The auxiliary heads' pooling."""

import pytest
import torch
import torch.nn.functional as F

from convatlas.layers.pooling import PoolToGrid


@pytest.mark.parametrize(("paper_side", "output_side"), [(14, 4), (17, 5)])
def test_the_papers_grid_is_pooled_as_printed_and_others_to_the_same_size(
    paper_side: int, output_side: int
) -> None:
    pool = PoolToGrid(kernel=5, stride=3, paper_side=paper_side)
    x = torch.randn(2, 3, paper_side, paper_side)
    windows = x.unfold(2, 5, 3).unfold(3, 5, 3).mean((4, 5))
    torch.testing.assert_close(pool(x), windows)
    assert pool(x).shape[2:] == (output_side, output_side)
    for side in (1, 4, 9, 33):
        x = torch.randn(2, 3, side, side)
        assert torch.equal(pool(x), F.adaptive_avg_pool2d(x, output_side))
