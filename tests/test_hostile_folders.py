"""A run's folder from a stranger: pipes in place of its files do not hang a command, links are not written
through, and what was lost is named."""

import os
import shutil
from pathlib import Path

import pytest
import torch

from convatlas import training
from convatlas.cli.main import main
from convatlas.errors import UserError
from convatlas.inference import openvino
from convatlas.inference.graph import prepare_module
from convatlas.models import create_model
from convatlas.storage import cache


@pytest.fixture
def run(trained_run: Path, tmp_path: Path) -> Path:
    shutil.copytree(trained_run, tmp_path / "run")
    return tmp_path / "run"


def unfinish(run: Path) -> None:
    """As if the run had been killed while it drew its report."""
    (run / "report.md").unlink()


@pytest.mark.parametrize("name", ["run.json", "metrics.jsonl", "timing.jsonl", "model.safetensors"])
def test_a_pipe_in_place_of_a_file_is_named_and_does_not_hang(
    run: Path, trained_run: Path, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    (run / name).unlink()
    os.mkfifo(run / name)
    commands = {
        "run.json": [
            ["compare", str(run), str(trained_run)],
            ["train", "--resume", str(run)],
            ["plan", str(run / name)],
        ],
        "metrics.jsonl": [["compare", str(run), str(trained_run)], ["train", "--resume", str(run)]],
        "timing.jsonl": [["compare", str(run), str(trained_run)]],
        "model.safetensors": [["eval", str(run)]],
    }[name]
    for command in commands:
        assert main(command) in (1, 2)
        error = capfd.readouterr().err.strip().splitlines()[-1]
        assert name in error
        assert "unexpected" not in error


@pytest.mark.parametrize("option", ["predict", "manifest", "classes"])
def test_a_pipe_in_place_of_an_input_is_named_and_does_not_hang(
    run: Path, tmp_path: Path, option: str, capfd: pytest.CaptureFixture[str]
) -> None:
    pipe = tmp_path / "pipe.csv"
    os.mkfifo(pipe)
    command = {
        "predict": ["predict", str(run), str(pipe), "--engine", "eager"],
        "manifest": ["data", "info", f"manifest:{pipe}"],
        "classes": [
            "import",
            str(run),
            "--model",
            "lenet5",
            "--classes",
            str(pipe),
            "--out",
            str(tmp_path / "o"),
        ],
    }[option]
    assert main(command) in (1, 2)
    captured = capfd.readouterr()
    assert "unexpected" not in captured.err + captured.out


@pytest.mark.parametrize(
    "name",
    [
        ".lock",
        "metrics.jsonl",
        "timing.jsonl",
        "checkpoints",
        "predictions",
        "report.md",
        "model.safetensors",
    ],
)
def test_a_link_in_a_runs_folder_is_neither_written_nor_deleted_through(
    run: Path, tmp_path: Path, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    unfinish(run)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / ".00000001.safetensors.1.tmp").write_bytes(b"not a leftover")
    victim = elsewhere / "victim"
    victim.write_bytes(b"precious")
    path = run / name
    if path.is_dir():
        shutil.rmtree(path)
        path.symlink_to(elsewhere)
    else:
        path.unlink(missing_ok=True)
        path.symlink_to(victim)
    before = {file.name: file.read_bytes() for file in elsewhere.iterdir()}
    assert main(["train", "--resume", str(run)]) == 2
    assert f"{path} is a link, and {run} should hold files and folders alone" in capfd.readouterr().err
    assert {file.name: file.read_bytes() for file in elsewhere.iterdir()} == before


@pytest.mark.parametrize("damage", ["deleted", "halved"])
def test_a_log_that_was_deleted_or_halved_is_named(run: Path, damage: str) -> None:
    unfinish(run)
    log = run / "metrics.jsonl"
    if damage == "deleted":
        log.unlink()
    else:
        lines = log.read_bytes().splitlines(keepends=True)
        log.write_bytes(b"".join(lines[: len(lines) // 2]))
    with pytest.raises(
        UserError, match=r"checkpoints in .* can be used \(.*metrics\.jsonl has no line that ends"
    ):
        training.resume(run)


def test_predicting_works_with_a_cache_that_cannot_be_written(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from PIL import Image

    cache._warn_once.cache_clear()
    (tmp_path / "cache").write_text("a file in place of the cache")
    monkeypatch.setenv("CONVATLAS_CACHE", str(tmp_path / "cache"))
    Image.new("L", (8, 8)).save(tmp_path / "image.png")
    assert main(["predict", str(run), str(tmp_path / "image.png"), "--engine", "openvino"]) == 0
    assert capfd.readouterr().err.count("cannot be written") == 1


@pytest.mark.skipif(openvino.missing_requirement() is not None, reason="OpenVINO is not installed")
def test_openvinos_error_of_a_full_disk_is_an_error_of_the_system(tmp_path: Path) -> None:
    module = prepare_module(create_model("lenet5", num_classes=10, in_chans=1).eval())
    model = openvino.convert(module, torch.zeros(1, 1, 32, 32))
    (tmp_path / "full").write_text("a file in place of the folder")
    with pytest.raises(OSError, match=r"OpenVINO could not write it: Not a directory: .*graph\.xml"):
        openvino.write_model(model, tmp_path / "full" / "graph.xml", {})
