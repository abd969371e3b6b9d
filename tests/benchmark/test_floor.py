"""The floor of a training step counts the bytes of its stated convention."""

import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from convatlas import analysis, models
from convatlas.benchmark.floor import moved_values, training_floor

ROOT = Path(__file__).parents[2]


def values(model: nn.Module, shape: tuple[int, int, int]) -> int:
    report = analysis.analyze(model, shape)
    return moved_values([operation for call in report.trace.calls for operation in call.operations])


def test_each_kind_of_operation_moves_the_maps_of_the_convention() -> None:
    assert values(nn.Sequential(nn.Conv2d(2, 8, 3), nn.ReLU()), (2, 10, 10)) == 0
    assert values(nn.Sequential(nn.Conv2d(2, 8, 3), nn.BatchNorm2d(8), nn.ReLU()), (2, 10, 10)) == 5 * 512
    assert values(nn.Sequential(nn.Conv2d(2, 8, 3), nn.MaxPool2d(2)), (2, 10, 10)) == 2 * (512 + 128)
    assert values(nn.Sequential(nn.Conv2d(2, 8, 3), nn.AdaptiveAvgPool2d(1)), (2, 10, 10)) == 2 * (512 + 8)


def test_a_bias_is_no_addition_of_two_maps() -> None:
    class Added(nn.Module):
        def __init__(self, residual: bool) -> None:
            super().__init__()
            self.conv = nn.Conv2d(2, 2, 3, padding=1)
            self.bias = nn.Parameter(torch.zeros(2, 1, 1))
            self.residual = residual

        def forward(self, x: Tensor) -> Tensor:
            x = self.conv(x)
            return x + self.conv(x) if self.residual else x + self.bias

    assert values(Added(False), (2, 10, 10)) == 0
    assert values(Added(True), (2, 10, 10)) == 2 * 200


def test_the_floor_of_resnet20_is_that_of_its_table() -> None:
    # He 2015, Table 6: stages of 16, 32 and 64 maps of 32, 16 and 8 pixels a side, each of 6 convolutions,
    # after a first one of 16 maps; 3 additions a stage; a global average
    maps = [channels * side**2 for channels, side in ((16, 32), (32, 16), (64, 8))]
    expected = 5 * (maps[0] + 6 * sum(maps)) + 2 * 3 * sum(maps) + 2 * (maps[2] + 64)
    model = models.create_model("resnet20_cifar")
    assert values(model, (3, 32, 32)) == expected
    report = analysis.analyze(model, (3, 32, 32))
    floor = training_floor(report, peak_flops=1e12, bandwidth=1e10, value_bytes=4)
    document = floor.document(batch=100)
    assert document["bytes_per_image"] == 4 * expected
    assert document["product_ms"] == pytest.approx(1e3 * 100 * 6 * report.macs / 1e12)
    assert document["byte_ms"] == pytest.approx(1e3 * 100 * 4 * expected / 1e10)
    rows: list[dict[str, Any]] = [{"images_per_second": 1e5 / document["ms"]}, {"images_per_second": None}]
    floor.add_shares(rows)
    assert rows[0]["floor_share"] == pytest.approx(100)
    assert rows[0]["share"] + rows[0]["bandwidth_share"] == pytest.approx(100)
    assert rows[1]["floor_share"] is None


@pytest.mark.parametrize("has_floor", [False, True])
def test_the_page_shows_documents_of_both_kinds(has_floor: bool) -> None:
    row: dict[str, Any] = {
        "images_per_second": 100.0,
        "ratio": 1.0,
        "ratio_tuned": 1.0,
        "memory_bytes": 1e9,
        "share": 40.0,
    }
    document: dict[str, Any] = {
        "model": "m",
        "batch": 10,
        "input": "3x32x32",
        "machine": "CPU",
        "baseline": "torchvision",
        "peak_flops": 1e12,
        "rows": [{"name": name, **row} for name in ("baseline", "baseline-tuned", "ours")],
    }
    if has_floor:
        document["bandwidth"] = 2e10
        document["floor"] = {"bytes_per_image": 1e8, "product_ms": 40.0, "byte_ms": 50.0, "ms": 90.0}
        for shown in document["rows"]:
            shown |= {"floor_share": 90.0, "bandwidth_share": 50.0}
    page = runpy.run_path(str(ROOT / "docs" / "training_speed.py"))
    page["_step_section"].__globals__["_measure"] = lambda command: document
    lines = page["_step_section"]("m")
    table = [line for line in lines if line.startswith("|")]
    assert len({line.count("|") for line in table}) == 1
    text = "\n".join(lines)
    assert ("The floor of a step is 90.0 ms: 40.0 ms of multiply-adds" in text) == has_floor
    assert ("50.0 ms for the 1,000 MB" in text) == has_floor
    assert ("| 40 | 90 |" in text) == has_floor
