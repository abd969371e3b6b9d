"""From words to a command."""

import pytest

from convatlas.cli.main import main
from convatlas.cli.parse import parse


@pytest.mark.parametrize(
    "words",
    [
        ["--set", "log_every=5", "seed=3", "--epochs", "1"],
        ["--set", "log_every=5", "--epochs", "1", "--set", "seed=3"],
        ["--epochs", "1", "--set", "log_every=5", "--set", "seed=3"],
    ],
)
def test_set_may_stand_anywhere_and_more_than_once(words: list[str]) -> None:
    command = parse(["train", "lenet5", *words, "--data", "digits"])
    assert (command.set, command.epochs, command.data) == (("log_every=5", "seed=3"), 1, "digits")  # type: ignore[attr-defined]


def test_set_without_a_value_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "lenet5", "--data", "digits", "--set"]) == 2
    assert "--set needs a value" in capsys.readouterr().err


def test_edit_may_stand_beside_set() -> None:
    words = ["--edit", "RemoveNorm()", "--set", "seed=3", "--edit", "SwapActivation(to=tanh)", "--seed", "1"]
    command = parse(["train", "lenet5", *words])
    assert command.edit == ("RemoveNorm()", "SwapActivation(to=tanh)")  # type: ignore[attr-defined]
    assert (command.set, command.seed) == (("seed=3",), 1)  # type: ignore[attr-defined]
