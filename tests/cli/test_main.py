"""The command line as a whole: help, errors of use, failures, exit codes."""

import subprocess
import sys
from pathlib import Path

import pytest

from convatlas import __version__
from convatlas.cli.main import main


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["train", "--help"],
        ["eval", "--help"],
        ["predict", "--help"],
        ["export", "--help"],
        ["visualize", "--help"],
        ["bench", "--help"],
        ["show", "--help"],
        ["compare", "--help"],
        ["plan", "--help"],
    ],
)
def test_help_does_not_import_torch(words: list[str]) -> None:
    program = (
        f"import sys; from convatlas.cli.main import main\ntry: main({words})\nfinally: print('torch' in "
        "sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "usage: convatlas" in done.stdout
    assert done.stderr.strip() == "False"


def test_importing_the_package_does_not_import_torch() -> None:
    program = "import sys, convatlas; print('torch' in sys.modules, 'train' in dir(convatlas))"
    assert (
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
        == "False True\n"
    )


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
        (
            ["train", "lenet5", "--data", "digits", "--recipe", "quik"],
            "unknown recipe 'quik': the nearest is 'quick'",
        ),
        (["train", "lenet5", "--data", "digits", "--epochs", "0"], "--epochs should be greater than 0"),
        (
            ["train", "lenet5", "--data", "digits", "--device", "gpu"],
            "unknown device 'gpu': expected auto, cpu, cuda or cuda:N",
        ),
        (
            ["train", "lenet5", "--data", "digits", "--workers", "-1"],
            "--workers should be 0 to 1,024, not -1",
        ),
        (
            ["train", "lenet5", "--data", "digits", "--set", "recipe.optimiser.lr=1"],
            "'optimiser': the nearest is 'optimizer'",
        ),
        (
            ["train", "lenet5", "--data", "digits", "--set", "precision=fp64"],
            "Invalid enum value 'fp64' - at `$.precision`",
        ),
        (
            ["train", "lenet5", "--data", "digits", "--set", "precision=tf32"],
            "precision tf32 needs a CUDA device",
        ),
        (
            ["train", "lenet5", "--data", "digits", "--set", "model.arguments.num_classes=7"],
            "num_classes is 7 but digits has 10 classes",
        ),
        (["train", "run.json"], "cannot read run.json (No such file or directory)"),
        (["train", "--resume", "nowhere", "--epochs", "3"], "--epochs cannot change the run of nowhere"),
        (["predict"], "missing WEIGHTS"),
        (["predict", "x", "y", "--engine", "onx"], "unknown engine 'onx'"),
        (["export", "x", "--to", "tensorrt"], "unknown format 'tensorrt': the nearest is 'safetensors'"),
        (["export", "x"], "export needs --to and a format, for example: convatlas export x --to onnx"),
        (["export", "x", "--to", "int8", "--max-drop", "-1"], "--max-drop should be 0 to 100 points, not -1"),
        (["compare"], "compare takes 2 to 26 runs' folders, not 0"),
        (["compare", "run", "./run"], "run is named twice"),
        (["bench", "inferense"], "unknown kind 'inferense'"),
    ],
)
def test_an_error_of_use_is_one_line_and_exit_code_2(
    words: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "words",
    [["eval", "nowhere"], ["predict", "nowhere", "x.png"], ["models", "xyz*"], ["compare", "run", "other"]],
)
def test_a_failed_job_is_one_line_and_exit_code_1(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_version() -> None:
    assert subprocess.run(
        [sys.executable, "-m", "convatlas", "--version"], capture_output=True, text=True, check=True
    ).stdout == (f"convatlas {__version__}\n")


def test_an_interrupted_command_exits_with_130(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from convatlas.cli import models

    def interrupt(self: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(models.Models, "__call__", interrupt)
    assert main(["models"]) == 130
    assert capsys.readouterr().err == "convatlas: interrupted\n"
