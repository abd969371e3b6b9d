"""Remembered results are those that torch derives."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from convatlas.analysis.trace.shape_cache import ShapeCacheMode

Make = Callable[..., Tensor]
CALLS: dict[str, Callable[[Tensor], Tensor]] = {
    "convolution": lambda x: F.conv2d(x, torch.empty(8, 4, 3, 3, device="meta"), stride=2),
    "channels last": lambda x: F.conv2d(x.to(memory_format=torch.channels_last), torch.empty(8, 4, 3, 3, device="meta")),
    "pooling with indices": lambda x: F.max_pool2d(x, 3, 2, return_indices=True)[1],
    "type promotion": lambda x: x.to(torch.int32) + 1.5,
    "a whole number is no fraction": lambda x: x.to(torch.int32) + 1,
    "comparison": lambda x: x > 0,
    "in place": lambda x: x.clone().relu_().add_(1),
    "reduction": lambda x: x.mean((2, 3), keepdim=True),
    "concatenation": lambda x: torch.cat([x, x[:, :2]], 1),
    "a view": lambda x: x.transpose(1, 2)[:, 1:],
    "into a given tensor": lambda x: torch.add(x, x, out=torch.empty_like(x)),
}


@pytest.mark.parametrize("name", CALLS)
def test_an_operator_remembered_gives_what_it_gave(name: str) -> None:
    x = torch.empty(2, 4, 9, 7, device="meta")
    derived = CALLS[name](x)
    for _ in range(3):
        with ShapeCacheMode():
            remembered = CALLS[name](x)
        assert (remembered.shape, remembered.stride(), remembered.dtype) == (derived.shape, derived.stride(), derived.dtype)
        assert remembered.device.type == "meta"


def test_what_works_in_place_gives_its_own_tensor_and_what_is_given_a_place_that_one() -> None:
    x, place = torch.empty(3, device="meta"), torch.empty(3, device="meta")
    for _ in range(3):
        with ShapeCacheMode():
            assert x.relu_() is x
            assert torch.add(x, x, out=place) is place
            assert x.view(3, 1)._base is x


def test_other_shapes_and_mistakes_are_not_mixed_up() -> None:
    weight = torch.empty(8, 4, 3, 3, device="meta")
    for _ in range(2):
        with ShapeCacheMode():
            assert F.conv2d(torch.empty(1, 4, 9, 9, device="meta"), weight).shape[2:] == (7, 7)
            assert F.conv2d(torch.empty(1, 4, 5, 9, device="meta"), weight).shape[2:] == (3, 7)
            with pytest.raises(RuntimeError, match="Invalid channel dimensions"):
                F.conv2d(torch.empty(1, 3, 9, 9, device="meta"), weight)


def test_real_tensors_are_computed() -> None:
    for value in (1.0, 2.0):
        with ShapeCacheMode():
            assert torch.full((2,), value).add(1).tolist() == [value + 1] * 2
