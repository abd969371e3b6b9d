"""A report as text: what `print(report)` shows, and the one line of its repr."""

import torch
from torch import Tensor, nn

from convatlas import models
from convatlas.analysis import Report, analyze


def report_of(name: str) -> Report:
    with torch.device("meta"):
        return analyze(models.create_model(name), models.get_entry(name).input)


def test_a_printed_report_is_a_table_by_stage_with_totals() -> None:
    lines = str(report_of("resnet50")).splitlines()
    assert lines[0] == "resnet50, edition paper, input 3x224x224"
    assert lines[1].split()[:4] == ["layer", "op", "output", "parameters"]
    stages = [line.split()[0] for line in lines[2 : lines.index("")]]
    assert stages[:4] == ["conv1", "relu", "maxpool", "conv2_x"]
    assert stages[-1] == "fc"
    assert any(line.split() == ["parameters", "25,557,032"] for line in lines)
    assert len({len(line) for line in lines[1 : lines.index("")]}) == 1  # columns are aligned
    assert max(map(len, lines)) <= 120


def test_notes_are_printed() -> None:
    assert "note          not called in evaluation: aux1" in str(report_of("googlenet"))


def test_the_repr_is_one_line() -> None:
    assert repr(report_of("lenet5")) == (
        "<Report of lenet5, edition paper, input 1x32x32: 60,000 parameters, 415,680 multiply-adds>"
    )


def test_names_are_harmless_in_a_terminal() -> None:
    class Renamed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.add_module("\x1b[2J", nn.Conv2d(1, 1, 1))

        def forward(self, x: Tensor) -> Tensor:
            for layer in self.children():
                x = layer(x)
            return x

    assert "\x1b" not in str(analyze(Renamed(), (1, 4, 4)))
