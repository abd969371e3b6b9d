"""The diagram of a network: the boxes and edges of its papers' figures, and what is drawn once."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convatlas import models
from convatlas.analysis import analyze
from convatlas.analysis.render.diagram import Panel, diagram
from convatlas.errors import UserError


def panels_of(name: str, path: str = "") -> list[Panel]:
    with torch.device("meta"):
        model = models.create_model(name)
    return diagram(analyze(model, models.get_entry(name).input).trace, path)


def connections(panel: Panel) -> set[tuple[str, str]]:
    """Edges by the boxes' texts, as `3×3 conv 96 -> concat`; a text that occurs twice gets its number."""
    texts: dict[int, str] = {}
    for box in panel.boxes:
        text = box.operation if box.size is None else f"{box.operation} {box.size}"
        count = sum(other.split(" #")[0] == text for other in texts.values())
        texts[box.index] = f"{text} #{count + 1}" if count else text
    return {(texts[a], texts[b]) for a, b in panel.edges}


def test_an_inception_module_is_figure_2b() -> None:
    """Szegedy et al. 2014, Fig. 2b, with the filters of inception (3a) in Table 1."""
    _, module = panels_of("googlenet")
    assert (module.title, module.note) == ("A: inception_3a", "and 8 modules like it")
    assert connections(module) == {
        ("input", "1×1 conv 64"),
        ("input", "1×1 conv 96"),
        ("1×1 conv 96", "3×3 conv 128"),
        ("input", "1×1 conv 16"),
        ("1×1 conv 16", "5×5 conv 32"),
        ("input", "3×3 max pool"),
        ("3×3 max pool", "1×1 conv 32"),
        ("1×1 conv 64", "concat"),
        ("3×3 conv 128", "concat"),
        ("5×5 conv 32", "concat"),
        ("1×1 conv 32", "concat"),
        ("concat", "output"),
    }


def test_residual_blocks_are_figure_5() -> None:
    """He et al. 2015, Fig. 5, right: 1x1, 3x3, 1x1, and a shortcut from the input to the sum."""
    *_, with_projection, block, _ = panels_of("resnet50")
    assert connections(block) == {
        ("input", "1×1 conv 64"),
        ("1×1 conv 64", "3×3 conv 64"),
        ("3×3 conv 64", "1×1 conv 256"),
        ("1×1 conv 256", "+"),
        ("input", "+"),
        ("+", "output"),
    }
    after_sum = next(box for box in block.boxes if box.operation == "+")
    assert after_sum.details == ("ReLU",)
    assert {box.details for box in block.boxes if box.size in (64, 256)} == {("BN", "ReLU"), ("BN",)}
    assert connections(with_projection) == {
        ("input", "1×1 conv 64"),
        ("1×1 conv 64", "3×3 conv 64"),
        ("3×3 conv 64", "1×1 conv 256"),
        ("1×1 conv 256", "+"),
        ("input", "1×1 conv 256 #2"),
        ("1×1 conv 256 #2", "+"),
        ("+", "output"),
    }


def test_the_stages_of_resnet_50_are_folded_as_in_table_1() -> None:
    main, *units = panels_of("resnet50")
    assert main.is_chain
    texts = [box.operation for box in main.boxes]
    assert texts == [
        *("input", "7×7 conv, /2", "3×3 max pool, /2", "conv2_x.0", "conv2_x.1 to 2", "conv3_x.0"),
        *("conv3_x.1 to 3", "conv4_x.0", "conv4_x.1 to 5", "conv5_x.0", "conv5_x.1 to 2"),
        *("global avg pool", "linear", "output"),
    ]
    counts = {texts[repeat.first]: repeat.count for repeat in main.repeats}
    assert list(counts.values()) == [2, 3, 5, 2]  # and the first block of each stage: 3, 4, 6, 3
    assert [unit.title for unit in units] == ["A: conv2_x.0", "B: conv2_x.1", "C: conv3_x.0"]


def test_pairs_of_layers_fold_where_their_module_begins() -> None:
    (main,) = panels_of("mobilenet_v1")
    (repeat,) = main.repeats
    run = main.boxes[repeat.first : repeat.first + repeat.length]
    assert [(box.operation, box.size) for box in run] == [("3×3 depthwise conv", 512), ("1×1 conv", 512)]
    assert repeat.count == 5  # Howard et al. 2017, Table 1: "5x"


class Shared(nn.Module):
    """A convolution in two places, a sum of a view that is written in place, and dead code."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.unused = nn.Conv2d(4, 9, 1)

    def forward(self, x: Tensor) -> Tensor:
        self.unused(x)
        y = self.relu(self.conv(x))
        z = self.relu(self.conv(y))
        y.add_(1.5)
        return torch.cat([z, y.flatten(1).view_as(y)], 1) * torch.ones(1)


def test_shared_modules_views_and_in_place_operators_are_followed() -> None:
    (panel,) = diagram(analyze(Shared(), (4, 8, 8)).trace)
    assert connections(panel) == {
        ("input", "3×3 conv 4"),
        ("3×3 conv 4", "3×3 conv 4 #2"),
        ("3×3 conv 4", "add"),
        ("3×3 conv 4 #2", "concat"),
        ("add", "concat"),
        ("concat", "mul"),
        ("mul", "output"),
    }


class TwoInputs(nn.Module):
    def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        return F.max_pool2d(a, 2) + b, b.softmax(1)


def test_a_network_may_have_several_inputs_and_outputs() -> None:
    inputs = (torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 4, 4))
    (panel,) = diagram(analyze(TwoInputs(), inputs).trace)
    assert connections(panel) == {
        ("input", "2×2 max pool, /2"),
        ("2×2 max pool, /2", "+"),
        ("input #2", "+"),
        ("input #2", "softmax"),
        ("+", "output"),
        ("softmax", "output #2"),
    }


def test_a_module_is_drawn_alone() -> None:
    with_branches, *others = panels_of("inception_v3", "Mixed_6a")
    assert not others
    assert ("3×3 max pool, /2", "concat") in connections(with_branches)
    stage, *blocks = panels_of("resnet18", "conv3_x")
    assert [box.operation for box in stage.boxes] == ["input", "0", "1", "output"]
    assert [block.title for block in blocks] == ["A: conv3_x.0", "B: conv3_x.1"]


def test_a_module_that_leads_nowhere_is_refused() -> None:
    with pytest.raises(UserError, match="unused does not lead from the input to the output"):
        diagram(analyze(Shared(), (4, 8, 8)).trace, "unused")


def test_large_units_are_folded_in_turn() -> None:
    class Dense(nn.Module):
        """Every layer reads all before it: Huang et al. 2016."""

        def __init__(self, count: int) -> None:
            super().__init__()
            self.layers = nn.ModuleList(
                nn.Sequential(nn.BatchNorm2d(2 + i), nn.ReLU(), nn.Conv2d(2 + i, 1, 1)) for i in range(count)
            )

        def forward(self, x: Tensor) -> Tensor:
            features = [x]
            for layer in self.layers:
                features.append(layer(torch.cat(features, 1)))
            return torch.cat(features, 1)

    network: Any = nn.Sequential(nn.Conv2d(3, 2, 3), Dense(20))
    main, block, layer = diagram(analyze(network, (3, 9, 9)).trace)
    assert [box.operation for box in main.boxes] == ["input", "3×3 conv", "1", "output"]
    assert len(block.boxes) == 20 + 20 + 1 + 2
    assert layer.note == "and 19 modules like it"
    assert connections(layer) == {("input", "BN"), ("BN", "1×1 conv 1"), ("1×1 conv 1", "output")}
