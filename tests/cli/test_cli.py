"""What a person types, and what comes back."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from convatlas import __version__
from convatlas.cli.main import main
from convatlas.cli.parse import parse


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["train", "--help"],
        ["eval", "--help"],
        ["predict", "--help"],
        ["export", "--help"],
        ["see", "--help"],
        ["bench", "--help"],
        ["show", "--help"],
        ["compare", "--help"],
        ["plan", "--help"],
    ],
)
def test_help_does_not_wait_for_torch(words: list[str]) -> None:
    program = (
        f"import sys; from convatlas.cli.main import main\ntry: main({words})\nfinally: print('torch' in sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "usage: convatlas" in done.stdout
    assert done.stderr.strip() == "False"


def test_importing_the_package_does_not_import_torch() -> None:
    program = "import sys, convatlas; print('torch' in sys.modules, 'train' in dir(convatlas))"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "False True\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "a command is missing"),
        (["tran"], "unknown command 'tran': the nearest is 'train'"),
        (["train", "lenet5", "--dat", "digits"], "unknown option '--dat': the nearest is '--data'"),
        (["train", "lenet5", "--epochs", "many"], "--epochs is 'many': expected a number"),
        (["train", "lenet5", "--data"], "--data needs a value"),
        (["train"], "train needs a network's name"),
        (["train", "lenet5"], "train needs --data"),
        (["train", "lenet6", "--data", "digits"], "unknown network 'lenet6': the nearest is 'lenet5'"),
        (["train", "lenet5", "--data", "digitz"], "unknown data set 'digitz': the nearest is 'digits'"),
        (["train", "lenet5", "--data", "digits", "--recipe", "quik"], "unknown recipe 'quik': the nearest is 'quick'"),
        (["train", "lenet5", "--data", "digits", "--epochs", "0"], "--epochs should be greater than 0"),
        (["train", "lenet5", "--data", "digits", "--device", "gpu"], "unknown device 'gpu': expected auto, cpu, cuda or cuda:N"),
        (["train", "lenet5", "--data", "digits", "--workers", "-1"], "--workers should be 0 or more"),
        (["train", "lenet5", "--data", "digits", "--set", "recipe.optimiser.lr=1"], "'optimiser': the nearest is 'optimizer'"),
        (["train", "lenet5", "--data", "digits", "--set", "precision=fp64"], "Invalid enum value 'fp64' - at `$.precision`"),
        (["train", "lenet5", "--data", "digits", "--set", "precision=tf32"], "precision tf32 needs a CUDA device"),
        (["train", "lenet5", "--data", "digits", "--set", "model.arguments.num_classes=7"], "num_classes is 7 but digits has 10 classes"),
        (["train", "run.json"], "cannot read run.json (No such file or directory)"),
        (["train", "--resume", "nowhere", "--epochs", "3"], "--epochs cannot change the run of nowhere"),
        (["predict"], "missing WEIGHTS"),
        (["predict", "x", "y", "--engine", "onx"], "unknown engine 'onx'"),
        (["export", "x", "--to", "tensorrt"], "unknown format 'tensorrt': the nearest is 'safetensors'"),
        (["export", "x"], "export needs --to and a format, for example: convatlas export x --to onnx"),
        (["export", "x", "--to", "int8", "--max-drop", "-1"], "--max-drop should be 0 to 100 points, not -1"),
        (["compare"], "compare takes 2 to 26 runs' folders, not 0"),
        (["compare", "one", "./one"], "one is named twice"),
        (["bench", "inferense"], "unknown kind 'inferense'"),
    ],
)
def test_a_mistake_of_use_is_one_line_on_stderr_and_exit_code_2(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", [["eval", "nowhere"], ["predict", "nowhere", "x.png"], ["models", "xyz*"], ["compare", "one", "two"]])
def test_a_job_that_fails_is_one_line_and_exit_code_1(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 1
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    "words",
    [
        ["--set", "log_every=5", "seed=3", "--epochs", "1"],
        ["--set", "log_every=5", "--epochs", "1", "--set", "seed=3"],
        ["--epochs", "1", "--set", "log_every=5", "--set", "seed=3"],
    ],
)
def test_settings_may_stand_anywhere_and_more_than_once(words: list[str]) -> None:
    command = parse(["train", "lenet5", *words, "--data", "digits"])
    assert (command.set, command.epochs, command.data) == (("log_every=5", "seed=3"), 1, "digits")  # type: ignore[attr-defined]


def test_settings_without_any_are_a_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "lenet5", "--data", "digits", "--set"]) == 2
    assert "--set needs a value" in capsys.readouterr().err


def test_version() -> None:
    assert subprocess.run([sys.executable, "-m", "convatlas", "--version"], capture_output=True, text=True, check=True).stdout == (
        f"convatlas {__version__}\n"
    )


def test_models_lists_every_name_with_its_cost(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "lenet*", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["name"], row["params"], row["macs"], row["input"], row["editions"]) == ("lenet5", 60_000, 415_680, [1, 32, 32], ["paper"])
    assert main(["models", "resnet*"]) == 0
    assert "resnet1202_cifar" in capsys.readouterr().out


def test_train_eval_and_predict_speak_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    assert main(["train", "lenet5", "--data", "digits", "--epochs", "1", "--set", "log_every=5", "--out", str(out), "--json"]) == 0
    captured = capsys.readouterr()
    document = json.loads(captured.out)
    assert document["out"] == str(out)
    assert len(document["run_id"]) == 64
    assert "estimated time" in captured.err
    assert main(["eval", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["top1"] == document["metrics"]["test_top1"]
    assert main(["eval", str(out), "--split", "val", "--crops", "9"]) == 2
    bad = tmp_path / "bad\x1b]52;x.png"
    bad.write_text("no image")
    capsys.readouterr()
    assert main(["predict", str(out), str(out / "batch.png"), str(bad), "--json"]) == 1
    good, failed = json.loads(capsys.readouterr().out)
    assert len(good["classes"]) == 5
    assert "not a readable" in failed["error"]
    assert main(["predict", str(out), str(out / "batch.png"), str(bad), "--top", "2"]) == 1
    captured = capsys.readouterr()
    assert "\x1b" not in captured.out + captured.err
    assert "1 of 2 images" in captured.out
    assert main(["train", str(out / "run.json"), "--out", str(tmp_path / "again"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["metrics"] == document["metrics"]


def test_an_interrupted_command_leaves_with_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from convatlas.cli import models

    def interrupt(self: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(models.Models, "__call__", interrupt)
    assert main(["models"]) == 130
    assert capsys.readouterr().err == "convatlas: interrupted\n"
