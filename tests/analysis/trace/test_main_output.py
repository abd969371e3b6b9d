"""Which output of a module with several counts."""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from convatlas.analysis import analyze
from convatlas.analysis.trace.main_output import main_output

A, B = torch.zeros(1, 2), torch.zeros(1, 3)


class Pair(NamedTuple):
    aux: Tensor
    logits: Tensor


@dataclass
class Output:
    features: Tensor
    logits: Tensor


@pytest.mark.parametrize(
    ("output", "expected", "place"),
    [
        (A, A, ""),
        ((A, B), A, "the first tensor of its tuple"),
        ([None, [B]], B, "the first tensor of its list"),
        ({"aux": A, "logits": B}, B, "'logits' of its dict"),
        ({"aux": A, "out": B}, B, "'out' of its dict"),
        (OrderedDict(features=A, other=B), A, "'features' of its OrderedDict"),
        (Pair(A, B), B, "'logits' of its Pair"),
        (Output(A, B), B, "'logits' of its Output"),
    ],
)
def test_logits_then_out_then_the_first_tensor_is_the_output(
    output: Any, expected: Tensor, place: str
) -> None:
    main = main_output(output)
    assert main is not None
    assert main.tensor is expected
    assert main.place == place


def test_no_tensor_is_no_output() -> None:
    assert main_output({"a": 3}) is None
    assert main_output(None) is None


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        maps = self.conv(images)
        return {"early": images, "logits": maps.mean((2, 3))}


def test_the_report_says_which_output_is_taken() -> None:
    report = analyze(Two(), (3, 9, 9))
    assert report.notes == ["Two returns several values: 'logits' of its dict is taken as its output"]
    assert report.module("").output_shape == [1, 4]
    assert [extent.size for extent in report.receptive_field("")] == [9, 9]
