"""The principles of arXiv:1512.00567, sec. 2: what is flagged, what is not, and the numbers with which."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from convatlas import models
from convatlas.analysis import Report, analyze
from convatlas.analysis.design_principles import Finding


def finding(report: Report, principle: str) -> Finding:
    return next(found for found in report.principles if found.principle == principle)


class SideBySide(nn.Module):
    """Fig. 10 of the paper: convolution and pooling, each with stride 2, concatenated."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=1)
        self.pool = nn.MaxPool2d(3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.conv(x), self.pool(x)], 1)


REDUCTIONS: dict[str, Callable[[], nn.Module]] = {
    "pool, then convolve": lambda: nn.Sequential(nn.MaxPool2d(3, 2, 1), nn.Conv2d(32, 64, 3, padding=1)),
    "convolve, then pool": lambda: nn.Sequential(nn.Conv2d(32, 64, 3, padding=1), nn.MaxPool2d(3, 2, 1)),
    "side by side": lambda: SideBySide(32),
}


@pytest.mark.parametrize(("way", "flagged"), [("pool, then convolve", True), ("convolve, then pool", False), ("side by side", False)])
def test_only_pooling_before_convolving_is_a_bottleneck(way: str, flagged: bool) -> None:
    """Sec. 5: from 32 maps of 36x36 to 64 of 18x18."""
    net = nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), REDUCTIONS[way](), nn.Conv2d(64, 64, 3, padding=1))
    found = finding(analyze(net, (3, 36, 36)), "information through each cut")
    assert bool(found.flags) == flagged
    if flagged:
        assert "10,368 of at least 41,472 elements" in found.flags[0]


def test_inception_v3_reduces_its_grids_without_a_bottleneck_and_vgg_does_not() -> None:
    with torch.device("meta"):
        inception = analyze(models.create_model("inception_v3"), (3, 299, 299))
        vgg = analyze(models.create_model("vgg16"), (3, 224, 224))
    assert finding(inception, "information through each cut").flags == []
    assert finding(vgg, "information through each cut").flags


def test_depth_and_width_are_weighed_against_each_other() -> None:
    with torch.device("meta"):
        deep = analyze(models.create_model("resnet1202_cifar"), (3, 32, 32))
        even = analyze(models.create_model("inception_v3"), (3, 299, 299))
    assert finding(deep, "width against depth").reading.startswith("1202 convolutions and linear layers")
    assert finding(deep, "width against depth").flags[0].startswith("deep for its width")
    assert finding(even, "width against depth").flags == []
    wide = analyze(nn.Sequential(nn.Conv2d(3, 512, 3), nn.Conv2d(512, 512, 3)), (3, 16, 16))
    assert finding(wide, "width against depth").flags[0].startswith("wide for its depth")


def test_aggregation_after_a_reduction_is_told_from_one_without() -> None:
    def net(middle: nn.Module) -> Finding:
        return finding(analyze(nn.Sequential(nn.Conv2d(3, 64, 3), middle), (3, 16, 16)), "aggregation after reduction")

    reduced = net(nn.Sequential(nn.Conv2d(64, 16, 1), nn.ReLU(), nn.Conv2d(16, 64, 3)))
    plain = net(nn.Conv2d(64, 64, 3))
    depthwise = net(nn.Conv2d(64, 64, 3, groups=64))
    assert reduced.reading.startswith("1 of 1 spatial convolutions, 100 %")
    assert depthwise.flags == reduced.flags == []
    assert plain.reading.startswith("0 of 1 spatial convolutions, 0 %")
    assert "3x3 on 64 channels, 5,308,416 multiply-adds" in plain.flags[0]


def test_the_stage_that_takes_most_of_the_cost_is_named_with_its_share() -> None:
    net = nn.Sequential(nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 3, padding=1))
    assert finding(analyze(net, (4, 8, 8)), "cost by stage").flags == ["1 takes 90 % of the multiply-adds, for 88 % of the parameters"]
