"""The plot of cost and receptive field: its main line and its bands."""

import torch

from convatlas import models
from convatlas.analysis import Report, analyze
from convatlas.analysis.render.plots import largest_so_far, stage_bands


def report_of(name: str) -> Report:
    with torch.device("meta"):
        model = models.create_model(name)
    return analyze(model, models.get_entry(name).input)


def test_the_line_never_falls_where_branches_have_smaller_fields() -> None:
    rows = [row for row in report_of("inception_v3").rows if row.macs]
    sizes = [max(row.receptive_field) for row in rows]
    line = largest_so_far(sizes)
    assert sizes != sorted(sizes)  # the order in which branches run
    assert line == sorted(line)
    assert all(size <= largest for size, largest in zip(sizes, line, strict=True))
    assert set(line) <= set(sizes)


def test_bands_cover_all_layers_by_stage() -> None:
    report = report_of("resnet50")
    bands = stage_bands(report)
    assert [name for name, _, _ in bands] == ["conv1", "conv2_x", "conv3_x", "conv4_x", "conv5_x", "fc"]
    assert bands[1] == ("conv2_x", 2, 11)  # 3 blocks of 3, and a projection
    numbers = [number for _, first, last in bands for number in range(first, last + 1)]
    assert numbers == list(range(1, sum(row.macs > 0 for row in report.rows) + 1))
