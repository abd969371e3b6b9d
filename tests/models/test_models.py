"""What every network of the atlas promises."""

import json
from importlib.resources import files
from typing import Any

import pytest
import torch

from convatlas import analysis, models
from convatlas.errors import UsageError

GOLDEN = json.loads(files("convatlas.models").joinpath("golden.json").read_text())
SMALL = [name for name in models.list_models() if "1202" not in name and "110" not in name]


@pytest.mark.parametrize("name", models.list_models())
def test_parameters_and_multiply_adds_are_the_golden_ones(name: str) -> None:
    golden, entry = GOLDEN[name], models.find(name)
    with torch.device("meta"):
        found = analysis.cost(models.create_model(name), entry.input)
    assert found == (golden["params"], golden["macs"])
    assert list(entry.input) == golden["input"]


def test_every_golden_line_belongs_to_a_network() -> None:
    assert sorted(GOLDEN) == sorted(models.list_models())


def test_projections_cost_what_the_facts_say() -> None:
    counts = {option: sum(p.numel() for p in models.create_model("resnet20_cifar", shortcut=option).parameters()) for option in "AB"}
    assert counts == {"A": 269_722, "B": 272_474}


def test_the_layers_of_lenet5_have_the_printed_parameters_and_shapes() -> None:
    model, x = models.create_model("lenet5"), torch.zeros(1, 1, 32, 32)
    printed: dict[str, tuple[int, tuple[int, ...]]] = {
        "C1": (156, (6, 28, 28)),
        "S2": (12, (6, 14, 14)),
        "C3": (1516, (16, 10, 10)),
        "S4": (32, (16, 5, 5)),
    }
    printed |= {"C5": (48_120, (120,)), "F6": (10_164, (84,)), "output": (0, (10,))}
    for name, layer in model.named_children():
        x = layer(x)
        assert (sum(p.numel() for p in layer.parameters()), tuple(x.shape[1:])) == printed.pop(name)
    assert not printed


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("arguments", [{}, {"num_classes": 120, "in_chans": 1}, {"width": 0.5, "in_chans": 4}, {"image_size": (40, 36)}])
def test_every_parameter_receives_a_finite_gradient(name: str, arguments: dict[str, Any]) -> None:
    model = models.create_model(name, **arguments)
    channels, height, width = models.find(name).input
    size = arguments.get("image_size", (height, width))
    outputs = model.training_outputs(torch.randn(2, arguments.get("in_chans", channels), *size))
    assert outputs["logits"].shape == (2, arguments.get("num_classes", 10))
    sum(output.square().sum() for output in outputs.values()).backward()  # type: ignore[union-attr]
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.abs().sum() > 0 for p in model.parameters())


@pytest.mark.parametrize("name", ["lenet5", "resnet20_cifar", "plain20_cifar"])
def test_a_seed_gives_one_initialisation_and_weights_round_trip(name: str) -> None:
    def make(seed: int) -> models.Network:
        torch.manual_seed(seed)
        return models.create_model(name).eval()

    a, b, c = make(1), make(1), make(2)
    x = torch.randn(2, *models.find(name).input)
    assert torch.equal(a(x), b(x))
    assert not torch.equal(a(x), c(x))
    c.load_state_dict(a.state_dict())
    assert torch.equal(a(x), c(x))


@pytest.mark.parametrize("name", ["lenet5", "resnet20_cifar", "plain20_cifar"])
def test_dropout_is_off_by_default_and_acts_when_asked_for(name: str) -> None:
    x = torch.randn(2, *models.find(name).input)
    plain, dropping = models.create_model(name), models.create_model(name, dropout=0.5)
    assert torch.equal(plain(x), plain(x))
    assert not torch.equal(dropping(x), dropping(x))


def test_codes_are_distinct_for_the_printable_characters_and_go_on_beyond() -> None:
    from convatlas.models.lenet5 import codes

    found = codes(300)
    assert found.shape == (300, 84)
    assert found.abs().eq(1).all()
    assert len({tuple(row) for row in found.tolist()}) == 300
    assert torch.equal(codes(10), found[:10])


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("resnet21_cifar", {}, "unknown network 'resnet21_cifar': the nearest is"),
        ("lenet5", {"shortcut": "A"}, "unknown argument of lenet5 'shortcut'"),
        ("plain20_cifar", {"shortcut": "A"}, "unknown argument of plain20_cifar"),
        ("resnet20_cifar", {"shortcut": "D"}, "expected A, B or C"),
        ("resnet20_cifar", {"edition": "torchvision"}, "known are paper"),
        ("lenet5", {"image_size": 12}, "at least 16x16"),
        ("lenet5", {"num_classes": 0}, "greater than 0"),
        ("lenet5", {"dropout": 1.0}, "below 1"),
    ],
)
def test_what_does_not_exist_is_refused_in_one_sentence(name: str, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message) as error:
        models.create_model(name, **arguments)  # type: ignore[arg-type]
    assert "\n" not in str(error.value)
