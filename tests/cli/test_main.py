"""The command line as a whole: help, errors of use, failures, exit codes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

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
        (["tran"], "unknown command 'tran': the nearest is 'train'"),
        (["train", "lenet5", "--dat", "digits"], "unknown option '--dat': the nearest is '--data'"),
        (["train", "lenet5", "--lr", "0.1"], "unknown option '--lr': say --set recipe.optimizer.lr="),
        (["train", "lenet5", "--batch-size=8"], "unknown option '--batch-size': say --batch"),
        (["train", "lenet5", "--img-size", "8"], "'--img-size': say --set model.arguments.image_size="),
        (["train", "lenet5", "--pretrained"], "unknown option '--pretrained': say --weights"),
        (["--threads", "0", "models"], "--threads is '0': expected a number of threads from 1 to 1024"),
        (["models", "--threads"], "--threads is '': expected a number of threads"),
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
        (["train", "lenet5", "--data", "digits", "--epochs", "0"], "--epochs should be more than 0 and"),
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
        (
            ["export", "x", "--to", "onnx", "--opset", "9"],
            "--opset should be 18 to 23, those of PyTorch, not 9",
        ),
        (["export", "x", "--to", "hub", "--opset", "18"], "--opset is the version of ONNX's operators: hub"),
        (["compare"], "compare takes 2 to 26 runs' folders, not 0"),
        (["compare", "run", "./run"], "run is named twice"),
        (["bench", "inferense"], "unknown kind 'inferense'"),
        (["bench", "data", "--beside"], "--beside is an option of bench train, not of bench data"),
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


@pytest.mark.parametrize("words", [[], ["data"], ["bench", "--help"]])
def test_a_command_without_arguments_prints_its_help(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(words)
    assert exit_.value.code == 0
    assert "usage: convatlas" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words", [["--threads", "3", "doctor", "--json"], ["doctor", "--threads=3", "--json"]]
)
def test_threads_are_set_before_torch_is_loaded(words: list[str]) -> None:
    program = f"import sys; from convatlas.cli.main import main; sys.exit(main({words}))"
    output = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    ).stdout
    (cpu, *_) = json.loads(output)["devices"]
    assert cpu["threads"] == 3


def test_doctor_names_versions_devices_extras_and_the_cache(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONVATLAS_CACHE", str(tmp_path))
    (tmp_path / "engines").mkdir()
    (tmp_path / "engines" / "model.bin").write_bytes(bytes(1000))
    assert main(["doctor", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["convatlas"] == __version__
    assert document["packages"]["torch"] == torch.__version__
    assert document["cache"]["parts"] == {"engines": {"files": 1, "bytes": 1000}}
    extras = {extra["name"]: extra for extra in document["extras"]}
    assert extras["onnx"]["packages"].keys() == {"onnx", "onnxruntime", "onnxscript"}
    assert extras["sets"]["install"] == "pip install 'convatlas[sets]'"
    assert document["problems"] == []
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    assert str(torch.__version__) in text
    assert "engines 1.00 kB" in text


def test_doctor_says_what_does_not_work(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("CONVATLAS_CACHE", str(tmp_path / "file"))
    monkeypatch.setenv("OMP_NUM_THREADS", "many")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["doctor"]) == 1
    text = " ".join(capsys.readouterr().out.split())
    assert "problem: OMP_NUM_THREADS is 'many'" in text
    assert "problem: no C++ compiler" in text
    assert "cannot be written" in text


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
