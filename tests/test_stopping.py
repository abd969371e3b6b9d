"""A stop request in every phase of every long command: honoured within seconds, by exit code 130 or 143, with
nothing half-written, and a training continues as if it had never been stopped."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.small_runs import last_step, small_run, weights_sha256
from PIL import Image

import convatlas as ca
from convatlas import training
from convatlas.cli.main import main
from convatlas.runtime.signals import StoppedBySignal, raise_on_signals

EPOCHS = 2
SECONDS = 10


def stop_in(
    monkeypatch: pytest.MonkeyPatch, target: str, call: int = 1, number: int = signal.SIGTERM
) -> None:
    """Let the n-th call of a function wait for a minute, and be stopped there by a signal."""
    module_name, _, name = target.rpartition(".")
    module = __import__(module_name, fromlist=[name])
    function = getattr(module, name)
    calls = 0

    def wait(*arguments: Any, **keywords: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            time.sleep(60)
        return function(*arguments, **keywords)

    signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), number))
    monkeypatch.setattr(module, name, wait)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ca.train(small_run(epochs=EPOCHS), out=tmp_path_factory.mktemp("runs") / "run").out


def files_of(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(file.relative_to(folder)): (file.stat().st_mtime_ns, file.read_bytes())
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


# By phase: the function that waits, and in which call
TRAINING_PHASES: dict[str, tuple[str, int]] = {
    "opening data": ("convatlas.training.resolve.open_dataset", 1),
    "measuring the network": ("convatlas.analysis.analyze", 1),
    "building the network": ("convatlas.training.train.build_objective", 1),
    "waiting for the first batch": ("convatlas.data.loading.loader._to_tensors", 1),
    "waiting for a batch": ("convatlas.data.loading.loader._to_tensors", 30),
    "the first validation": ("convatlas.training.validation.evaluate_split", 1),
    "the last validation": ("convatlas.training.validation.evaluate_split", EPOCHS),
    "the test split": ("convatlas.training.train.evaluate_split", 1),
    "storing predictions": ("convatlas.evaluation.predictions.write_predictions", 1),
    "writing the model": ("convatlas.training.result.write_model_file", 1),
    "drawing the report": ("convatlas.training.classification_report.write_figure", 2),
    "writing the report": ("convatlas.training.classification_report.markdown_template", 1),
}


QUICK_PHASES = (
    "opening data",
    "waiting for a batch",
    "the last validation",
    "the test split",
    "drawing the report",
)


@pytest.mark.parametrize(
    "phase",
    [
        phase if phase in QUICK_PHASES else pytest.param(phase, marks=pytest.mark.slow)
        for phase in TRAINING_PHASES
    ],
)
def test_a_training_stops_in_every_phase_and_continues_without_a_trace(
    phase: str, uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    start = time.monotonic()
    with monkeypatch.context() as patch:
        stop_in(patch, *TRAINING_PHASES[phase])
        with pytest.raises(StoppedBySignal) as stopped, raise_on_signals():
            ca.train(small_run(epochs=EPOCHS), out=out, workers=0)
    assert stopped.value.exit_code == 143
    assert time.monotonic() - start < 30
    assert not list(out.rglob("*.tmp"))
    ca.train(small_run(epochs=EPOCHS), out=out)
    assert weights_sha256(out) == weights_sha256(uninterrupted)
    for name in ("metrics.jsonl", "run.json", "report.md"):
        assert (out / name).read_bytes() == (uninterrupted / name).read_bytes()


def test_the_resume_of_a_run_that_has_ended_changes_nothing(
    uninterrupted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = files_of(uninterrupted)
    result = training.resume(uninterrupted)
    again = ca.train(small_run(epochs=EPOCHS), out=uninterrupted)
    assert files_of(uninterrupted) == before
    assert result.metrics == again.metrics
    assert result.metrics["test_n"] > 0
    assert "has ended before, and nothing in it is changed" in capsys.readouterr().out


def test_a_run_whose_report_or_model_is_missing_or_damaged_is_finished_again(
    uninterrupted: Path, tmp_path: Path
) -> None:
    shutil.copytree(uninterrupted, tmp_path / "run")
    model = tmp_path / "run" / "model.safetensors"
    data = model.read_bytes()
    for damaged in (data[:-1], data[:1000] + bytes([data[1000] ^ 1]) + data[1001:]):
        model.write_bytes(damaged)
        (tmp_path / "run" / "report.md").unlink()
        training.resume(tmp_path / "run")
        assert model.read_bytes() == data
        assert (tmp_path / "run" / "report.md").read_bytes() == (uninterrupted / "report.md").read_bytes()


def test_a_run_that_is_fine_tuned_from_one_that_was_resumed_continues(
    uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["train", "lenet5", "--data", "digits", "--weights", str(uninterrupted), "--epochs", "1"]
    with monkeypatch.context() as patch:
        stop_in(patch, "convatlas.data.loading.loader._to_tensors", 5)
        assert main([*arguments, "--out", str(tmp_path / "tuned"), "--workers", "0"]) == 143
    training.resume(uninterrupted)
    assert main(["train", "--resume", str(tmp_path / "tuned")]) == 0


def test_compiling_is_interrupted_and_the_run_starts_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "compile", lambda module: module)
    run = small_run(epochs=1, compile=True)
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        stop_in(patch, "convatlas.training.step.accumulate_gradients")
        with pytest.raises(StoppedBySignal, match="at step 0 of"), raise_on_signals():
            ca.train(run, out=out)
    assert list((out / "checkpoints").iterdir()) == []
    ca.train(run, out=out)
    expected = ca.train(run, out=tmp_path / "expected")
    assert weights_sha256(out) == weights_sha256(expected.out)


def test_a_worker_that_hangs_does_not_keep_a_training_from_stopping(tmp_path: Path) -> None:
    arguments = ["train", "lenet5", "--data", "digits", "--epochs", "1000", "--workers", "1", "--out", "run"]
    command = [sys.executable, "-m", "convatlas", *arguments]
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd=tmp_path
    ) as process:
        while last_step(tmp_path / "run") < 11 and process.poll() is None:
            time.sleep(0.05)
        workers = children_of(process.pid)
        for worker in workers:
            os.kill(worker, signal.SIGSTOP)
        time.sleep(0.5)  # until the training waits for that worker
        process.send_signal(signal.SIGTERM)
        _, error = process.communicate(timeout=2 * SECONDS)
    assert workers
    assert process.returncode == 143
    assert b"stopped and saved at step" in error


def children_of(process: int) -> list[int]:
    tasks = Path("/proc", str(process), "task")
    return [int(child) for task in tasks.iterdir() for child in (task / "children").read_text().split()]


@pytest.mark.parametrize("seconds", [0.5, 1.5])
def test_a_command_stops_while_it_starts(seconds: float, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "convatlas", "train", "lenet5", "--data", "digits", "--out", "run"]
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd=tmp_path
    ) as process:
        time.sleep(seconds)
        process.send_signal(signal.SIGTERM)
        _, error = process.communicate(timeout=SECONDS)
    assert process.returncode in (143, -signal.SIGTERM)  # before Python has reached the command: the latter
    assert b"Traceback" not in error
    assert len(error.splitlines()) <= 2  # the other says that PyTorch is being loaded


# By command: its arguments, and the function in which it waits
COMMANDS: dict[str, tuple[list[str], str]] = {
    "eval": (["eval", "RUN"], "convatlas.evaluation.request.predict_batches"),
    "predict": (["predict", "RUN", "IMAGE", "--engine", "eager"], "convatlas.inference.eager.build"),
    "data check": (["data", "check", "digits"], "convatlas.data.curation.check.find_near_duplicates"),
    "data pack": (
        ["data", "pack", "digits", "--out", "OUT", "--workers", "1"],
        "convatlas.data.curation.pack.crop_resize",
    ),
    "compare": (["compare", "RUN", "OTHER"], "convatlas.training.comparison.compare.read_run"),
    "visualize": (["visualize", "RUN", "--out", "OUT"], "convatlas.classifier.load"),
    "bench": (["bench", "inference", "lenet5"], "convatlas.benchmark.inference.run_in_subprocess"),
    "export": (["export", "RUN", "--to", "safetensors", "--out", "OUT"], "convatlas.export.formats.load"),
    "plan": (["plan", "RUN/run.json"], "convatlas.training.resolve.open_dataset"),
}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("command", COMMANDS)
def test_every_long_command_stops_with_its_exit_code_and_leaves_nothing_behind(
    command: str,
    number: int,
    uninterrupted: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    Image.new("L", (8, 8)).save(tmp_path / "image.png")
    paths = {
        "RUN": uninterrupted,
        "RUN/run.json": uninterrupted / "run.json",
        "IMAGE": tmp_path / "image.png",
        "OUT": tmp_path / "out",
        "OTHER": tmp_path / "elsewhere",
    }
    arguments, target = COMMANDS[command]
    before = files_of(uninterrupted)
    stop_in(monkeypatch, target, number=number)
    start = time.monotonic()
    assert main([str(paths.get(argument, argument)) for argument in arguments]) == 128 + number
    assert time.monotonic() - start < SECONDS
    assert files_of(uninterrupted) == before
    assert not list(tmp_path.rglob("*.tmp"))
    error = capfd.readouterr().err.strip().splitlines()
    assert error[-1] == f"convatlas: {'interrupted' if number == signal.SIGINT else 'stopped by SIGTERM'}"
