"""`convatlas models`."""

import json

import pytest

from convatlas.cli.main import main


def test_every_network_is_listed_with_its_cost(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "lenet*", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["name"], row["params"], row["macs"], row["input"], row["editions"]) == (
        "lenet5",
        60_000,
        415_680,
        [1, 32, 32],
        ["paper"],
    )
    assert main(["models", "resnet*"]) == 0
    assert "resnet1202_cifar" in capsys.readouterr().out
