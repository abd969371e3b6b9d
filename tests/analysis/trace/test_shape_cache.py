"""Cached results are those that torch derives."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from convatlas.analysis.trace.shape_cache import ShapeCacheMode

CALLS: dict[str, Callable[[Tensor], Tensor]] = {
    "convolution": lambda x: F.conv2d(x, torch.empty(8, 4, 3, 3, device="meta"), stride=2),
    "channels last": lambda x: F.conv2d(
        x.to(memory_format=torch.channels_last), torch.empty(8, 4, 3, 3, device="meta")
    ),
    "pooling with indices": lambda x: F.max_pool2d(x, 3, 2, return_indices=True)[1],
    "type promotion": lambda x: x.to(torch.int32) + 1.5,
    "an integer is no float": lambda x: x.to(torch.int32) + 1,
    "comparison": lambda x: x > 0,
    "in place": lambda x: x.clone().relu_().add_(1),
    "reduction": lambda x: x.mean((2, 3), keepdim=True),
    "concatenation": lambda x: torch.cat([x, x[:, :2]], 1),
    "a view": lambda x: x.transpose(1, 2)[:, 1:],
    "into an out argument": lambda x: torch.add(x, x, out=torch.empty_like(x)),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_cached_operator_gives_the_derived_result(name: str) -> None:
    x = torch.empty(2, 4, 9, 7, device="meta")
    derived = CALLS[name](x)
    for _ in range(3):
        with ShapeCacheMode():
            cached = CALLS[name](x)
        assert cached.shape == derived.shape
        assert cached.stride() == derived.stride()
        assert cached.dtype == derived.dtype
        assert cached.device.type == "meta"


def test_in_place_and_out_operators_return_the_tensor_they_write() -> None:
    x = torch.empty(3, device="meta")
    out = torch.empty(3, device="meta")
    for _ in range(3):
        with ShapeCacheMode():
            assert x.relu_() is x
            assert torch.add(x, x, out=out) is out
            assert x.view(3, 1)._base is x


def test_other_shapes_and_errors_do_not_share_an_entry() -> None:
    weight = torch.empty(8, 4, 3, 3, device="meta")
    for _ in range(2):
        with ShapeCacheMode():
            assert F.conv2d(torch.empty(1, 4, 9, 9, device="meta"), weight).shape[2:] == (7, 7)
            assert F.conv2d(torch.empty(1, 4, 5, 9, device="meta"), weight).shape[2:] == (3, 7)
            with pytest.raises(RuntimeError, match="Invalid channel dimensions"):
                F.conv2d(torch.empty(1, 3, 9, 9, device="meta"), weight)


def test_operators_on_real_tensors_are_computed() -> None:
    for value in (1.0, 2.0):
        with ShapeCacheMode():
            assert torch.full((2,), value).add(1).tolist() == [value + 1] * 2
