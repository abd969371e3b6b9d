"""The effective receptive field, where arithmetic says what it must be, and the picture that shows it."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from convatlas import models
from convatlas.analysis import analyze
from convatlas.analysis.receptive_field.effective import effective_field
from convatlas.analysis.render import plots
from convatlas.errors import UsageError, UserError


def box(kernel: int = 3, stride: int = 1) -> nn.Conv2d:
    conv = nn.Conv2d(1, 1, kernel, stride, kernel // 2, bias=False)
    nn.init.constant_(conv.weight, 1.0)
    return conv


def test_stacked_box_filters_fall_off_as_repeated_convolution_does() -> None:
    """arXiv:1701.04128, sec. 2.2: with equal weights the gradient is the filter convolved with itself."""
    net = nn.Sequential(*[box() for _ in range(4)])
    field = effective_field(net, (1, 21, 21), ["3"])["3"]
    line = np.ones(1)
    for _ in range(4):
        line = np.convolve(line, np.ones(3))
    expected = np.zeros((21, 21))
    expected[6:15, 6:15] = np.outer(line, line) / line.max() ** 2
    np.testing.assert_allclose(field, expected, rtol=1e-5)


def test_it_lies_inside_the_theoretical_field_and_is_smaller() -> None:
    torch.manual_seed(0)
    net = models.create_model("resnet20_cifar")
    report = analyze(net, (3, 32, 32))
    field = effective_field(net, (3, 32, 32), ["conv2_x"])["conv2_x"]
    rows, columns = report.pixels("conv2_x", (16, 16))
    assert rows == columns == (9, 23)
    inside = field[9:24, 9:24]
    assert field.sum() == pytest.approx(inside.sum())
    assert field.max() == inside.max() == 1
    assert (inside[3:-3, 3:-3].sum() / inside.sum()) > 0.7  # a third of the area


def test_the_callers_network_keeps_its_statistics_and_gradients() -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    effective_field(net, (1, 9, 9), ["1"])
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())
    assert net.training


def test_what_has_no_field_is_said() -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten())
    with pytest.raises(UsageError, match="unknown layer '2'"):
        effective_field(net, (1, 9, 9), ["2"])
    with pytest.raises(UserError, match="1 gives no map that the image moves"):
        effective_field(net, (1, 9, 9), ["1"])


def test_the_picture_shows_both_networks_and_their_fields() -> None:
    nets = [models.create_model(name) for name in ("resnet20_cifar", "lenet5")]
    reports = [analyze(net, models.get_entry(name).input) for net, name in zip(nets, ("resnet20_cifar", "lenet5"), strict=True)]
    fields = [plots.effective_fields(net, report, draws=1) for net, report in zip(nets, reports, strict=True)]
    assert [list(f) for f in fields] == [["conv1", "conv2_x", "conv3_x", "conv4_x"], ["C1", "S2", "C3", "S4"]]
    image = Image.open(io.BytesIO(plots.draw_report(reports, fields)))
    assert image.format == "PNG"
    assert image.size == (1100, 1144)
    assert len(set(image.convert("RGB").get_flattened_data())) > 500  # not a blank sheet
