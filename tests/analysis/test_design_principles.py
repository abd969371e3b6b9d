"""The principles of arXiv:1512.00567, sec. 2: which networks are flagged, and with which numbers."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from convatlas import models
from convatlas.analysis import Report, analyze
from convatlas.analysis.design_principles import Finding


def get_finding(report: Report, principle: str) -> Finding:
    return next(finding for finding in report.principles if finding.principle == principle)


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


@pytest.mark.parametrize(
    ("reduction", "is_flagged"),
    [("pool, then convolve", True), ("convolve, then pool", False), ("side by side", False)],
)
def test_only_pooling_before_convolving_is_a_bottleneck(reduction: str, is_flagged: bool) -> None:
    """Sec. 5: from 32 maps of 36x36 to 64 of 18x18."""
    net = nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), REDUCTIONS[reduction](), nn.Conv2d(64, 64, 3, padding=1)
    )
    finding = get_finding(analyze(net, (3, 36, 36)), "information through each cut")
    assert bool(finding.flags) == is_flagged
    if is_flagged:
        assert "10,368 of at least 41,472 elements" in finding.flags[0]


def test_vgg_has_a_bottleneck_but_inception_v3_does_not() -> None:
    with torch.device("meta"):
        inception = analyze(models.create_model("inception_v3"), (3, 299, 299))
        vgg = analyze(models.create_model("vgg16"), (3, 224, 224))
    assert get_finding(inception, "information through each cut").flags == []
    assert get_finding(vgg, "information through each cut").flags


def test_networks_out_of_balance_are_flagged_as_deep_or_wide() -> None:
    with torch.device("meta"):
        deep = analyze(models.create_model("resnet1202_cifar"), (3, 32, 32))
        balanced = analyze(models.create_model("inception_v3"), (3, 299, 299))
    assert get_finding(deep, "width against depth").reading.startswith("1202 convolutions and linear layers")
    assert get_finding(deep, "width against depth").flags[0].startswith("deep for its width")
    assert get_finding(balanced, "width against depth").flags == []
    wide = analyze(nn.Sequential(nn.Conv2d(3, 512, 3), nn.Conv2d(512, 512, 3)), (3, 16, 16))
    assert get_finding(wide, "width against depth").flags[0].startswith("wide for its depth")


def test_aggregation_without_a_reduction_is_flagged() -> None:
    def finding_of(layer: nn.Module) -> Finding:
        report = analyze(nn.Sequential(nn.Conv2d(3, 64, 3), layer), (3, 16, 16))
        return get_finding(report, "aggregation after reduction")

    reduced = finding_of(nn.Sequential(nn.Conv2d(64, 16, 1), nn.ReLU(), nn.Conv2d(16, 64, 3)))
    plain = finding_of(nn.Conv2d(64, 64, 3))
    depthwise = finding_of(nn.Conv2d(64, 64, 3, groups=64))
    assert reduced.reading.startswith("1 of 1 spatial convolutions, 100 %")
    assert depthwise.flags == reduced.flags == []
    assert plain.reading.startswith("0 of 1 spatial convolutions, 0 %")
    assert "3x3 on 64 channels, 5,308,416 multiply-adds" in plain.flags[0]


def test_the_stage_with_most_of_the_cost_is_named_with_its_share() -> None:
    net = nn.Sequential(nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 3, padding=1))
    finding = get_finding(analyze(net, (4, 8, 8)), "cost by stage")
    assert finding.flags == ["1 takes 90 % of the multiply-adds, for 88 % of the parameters"]
