"""The effective receptive field against closed forms, and the plot that shows it."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from convatlas import models
from convatlas.analysis import analyze
from convatlas.analysis.receptive_field.effective import effective_receptive_fields
from convatlas.analysis.render import plots
from convatlas.errors import UsageError, UserError


def box_filter(kernel: int = 3, stride: int = 1) -> nn.Conv2d:
    conv = nn.Conv2d(1, 1, kernel, stride, kernel // 2, bias=False)
    nn.init.constant_(conv.weight, 1.0)
    return conv


def test_stacked_box_filters_have_the_field_of_a_repeated_convolution() -> None:
    """With equal weights the gradient is the filter convolved with itself (arXiv:1701.04128, sec. 2.2)."""
    net = nn.Sequential(*[box_filter() for _ in range(4)])
    field = effective_receptive_fields(net, (1, 21, 21), ["3"])["3"]
    line = np.ones(1)
    for _ in range(4):
        line = np.convolve(line, np.ones(3))
    expected = np.zeros((21, 21))
    expected[6:15, 6:15] = np.outer(line, line) / line.max() ** 2
    np.testing.assert_allclose(field, expected, rtol=1e-5)


def test_the_effective_field_is_smaller_than_the_theoretical_one() -> None:
    torch.manual_seed(0)
    net = models.create_model("resnet20_cifar")
    report = analyze(net, (3, 32, 32))
    field = effective_receptive_fields(net, (3, 32, 32), ["conv2_x"])["conv2_x"]
    rows, columns = report.pixels("conv2_x", (16, 16))
    assert rows == columns == (9, 23)
    inside = field[9:24, 9:24]
    assert field.sum() == pytest.approx(inside.sum())
    assert field.max() == inside.max() == 1
    assert (inside[3:-3, 3:-3].sum() / inside.sum()) > 0.7  # a third of the area


def test_the_callers_network_stays_as_it_was() -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    effective_receptive_fields(net, (1, 9, 9), ["1"])
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())
    assert net.training


def test_a_layer_without_a_feature_map_is_refused() -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten())
    with pytest.raises(UsageError, match="unknown layer '2'"):
        effective_receptive_fields(net, (1, 9, 9), ["2"])
    with pytest.raises(UserError, match="1 has no feature map that depends on the image"):
        effective_receptive_fields(net, (1, 9, 9), ["1"])


def test_the_plot_shows_both_networks_and_their_fields() -> None:
    reports = []
    fields = []
    for name in ("resnet20_cifar", "lenet5"):
        net = models.create_model(name)
        report = analyze(net, models.get_entry(name).input)
        reports.append(report)
        fields.append(plots.effective_fields(net, report, num_images=1))
    assert [list(paths) for paths in fields] == [
        ["conv1", "conv2_x", "conv3_x", "conv4_x"],
        ["C1", "S2", "C3", "S4"],
    ]
    image = Image.open(io.BytesIO(plots.draw_report(reports, fields)))
    assert image.format == "PNG"
    assert image.size == (1100, 1210)
    assert len(set(image.convert("RGB").get_flattened_data())) > 500  # not a blank sheet
