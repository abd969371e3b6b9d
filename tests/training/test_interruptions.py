"""A run that is interrupted, however often and however rudely, ends as the run that never was."""

import json
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.small_runs import PROCESSES, command, last_step, small_run, train_quietly, weights

import convatlas as ca
from convatlas.errors import UsageError, UserError
from convatlas.runtime.signals import StoppedBySignal
from convatlas.storage.checked_safetensors import read_checked
from convatlas.training import loop

EPOCHS = 12  # 528 steps


def start(out: Path, workers: int) -> Any:
    process = PROCESSES.Process(target=train_quietly, args=(str(out), workers, EPOCHS))
    process.start()
    return process


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    process = start(out, 0)
    process.join()
    assert process.exitcode == 0
    return out


@pytest.mark.parametrize("workers", [0, 2])
def test_twelve_kills_at_random_moments_leave_no_trace(undisturbed: Path, tmp_path: Path, workers: int) -> None:
    out, rng, kills = tmp_path / "run", random.Random(workers), 0
    while kills < 12:
        process, target = start(out, workers), last_step(out) + rng.randint(-15, 45)
        while process.is_alive() and last_step(out) < target:
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.02))
        assert process.is_alive(), f"the training ended after {kills} kills"
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:  # so early that it has no group of its own yet
            process.kill()
        process.join()
        kills += 1
    process = start(out, workers)
    process.join()
    assert process.exitcode == 0
    assert weights(out) == weights(undisturbed)
    assert (out / "metrics.jsonl").read_bytes() == (undisturbed / "metrics.jsonl").read_bytes()
    assert json.loads((out / "run.json").read_bytes()) == json.loads((undisturbed / "run.json").read_bytes())


def test_another_seed_would_be_noticed(undisturbed: Path, tmp_path: Path) -> None:
    ca.train(small_run(seed=1, epochs=1), out=tmp_path / "run")
    assert weights(tmp_path / "run") != weights(undisturbed)


def test_finishing_twice_changes_nothing(tmp_path: Path) -> None:
    first = ca.train(small_run(epochs=1), out=tmp_path / "run")
    before = (tmp_path / "run" / "metrics.jsonl").read_bytes(), weights(tmp_path / "run")
    assert ca.train(small_run(epochs=1), out=tmp_path / "run") == first
    assert ((tmp_path / "run" / "metrics.jsonl").read_bytes(), weights(tmp_path / "run")) == before


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_to_the_whole_group_saves_and_exits_with_its_code(tmp_path: Path, number: signal.Signals, code: int) -> None:
    out, said = tmp_path / "run", tmp_path / "stderr"
    words = ["train", "lenet5", "--data", "digits", "--epochs", "1000", "--out", str(out), "--workers", "1"]
    process = PROCESSES.Process(target=command, args=(words, str(said)))
    process.start()
    while last_step(out) < 30 and process.is_alive():
        time.sleep(0.01)
    os.killpg(process.pid, number)  # type: ignore[arg-type]
    process.join(60)
    errors = said.read_text()
    assert process.exitcode == code, errors
    assert "stopped and saved at step" in errors
    assert "Traceback" not in errors
    saved = max((out / "checkpoints").iterdir())
    assert f"step {int(saved.stem)} of" in errors
    read_checked(saved)


def test_stopping_in_the_middle_of_an_epoch_and_going_on_is_not_stopping(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ca.train(small_run(epochs=2), out=tmp_path / "whole")
    half_trained(tmp_path / "halved", monkeypatch)
    ca.train(small_run(epochs=2), out=tmp_path / "halved", workers=1)
    assert weights(tmp_path / "halved") == weights(tmp_path / "whole")
    assert (tmp_path / "halved" / "metrics.jsonl").read_bytes() == (tmp_path / "whole" / "metrics.jsonl").read_bytes()


def half_trained(out: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """A run folder stopped at step 33, and its checkpoints, oldest first."""
    with monkeypatch.context() as patch:
        real = loop.is_due

        def due(step: int, every: int, last: int) -> bool:
            if step == 32 and every == 44:  # the first question that is asked after a step; the signal is seen during the next
                signal.raise_signal(signal.SIGTERM)
            return real(step, every, last)

        patch.setattr(loop, "is_due", due)
        with pytest.raises(StoppedBySignal, match="saved at step 33 of 88"):
            ca.train(small_run(epochs=2), out=out)
    return sorted((out / "checkpoints").iterdir())


def test_a_corrupt_last_checkpoint_is_passed_over_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ca.train(small_run(epochs=2), out=tmp_path / "whole")
    last = half_trained(tmp_path / "run", monkeypatch)[-1]
    data = bytearray(last.read_bytes())
    data[len(data) // 2] ^= 1
    last.write_bytes(data)
    ca.train(small_run(epochs=2), out=tmp_path / "run")
    assert f"{last} is damaged: its content does not match its SHA-256; falling back to the checkpoint before" in capsys.readouterr().out
    assert weights(tmp_path / "run") == weights(tmp_path / "whole")


def test_when_no_checkpoint_can_be_used_nothing_is_started_anew_in_silence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for checkpoint in half_trained(tmp_path / "run", monkeypatch):
        checkpoint.write_bytes(checkpoint.read_bytes()[:-1])
    with pytest.raises(UserError, match="none of the 2 checkpoints"):
        ca.train(small_run(epochs=2), out=tmp_path / "run")


def test_another_environment_is_refused_with_what_differs_and_can_be_forced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    half_trained(tmp_path / "run", monkeypatch)
    stored = (tmp_path / "run" / "run.json").read_text()
    (tmp_path / "run" / "run.json").write_text(stored.replace('"torch": "', '"torch": "0.'))
    with pytest.raises(UsageError, match=r"torch: \"0\..*--force"):
        ca.train(small_run(epochs=2), out=tmp_path / "run")
    ca.train(small_run(epochs=2), out=tmp_path / "run", force=True)


def test_a_folder_with_another_run_or_other_things_is_left_alone(tmp_path: Path) -> None:
    ca.train(small_run(epochs=1), out=tmp_path / "run")
    before = weights(tmp_path / "run")
    with pytest.raises(UsageError, match=r"holds another run \(seed: 0 -> 1\): give another folder with --out"):
        ca.train(small_run(seed=1, epochs=1), out=tmp_path / "run")
    assert weights(tmp_path / "run") == before
    with pytest.raises(UsageError, match="not empty and holds no run"):
        ca.train(small_run(epochs=1), out=tmp_path)


def test_a_loss_that_is_not_finite_stops_the_run_names_the_step_and_keeps_finite_weights(tmp_path: Path) -> None:
    run = ca.Run(model="resnet20_cifar", data="digits")
    run = run.replace(recipe=run.recipe.replace(optimizer=run.recipe.optimizer.replace(lr=1e30)), precision="fp32")
    with pytest.raises(UserError, match=r"the loss is not finite at step (\d+) .*saved in") as error:
        ca.train(run, out=tmp_path / "run")
    step = int(str(error.value).split("at step ")[1].split()[0])
    tensors, _ = read_checked(tmp_path / "run" / "checkpoints" / f"{step - 1:08d}.safetensors")
    assert all(t.isfinite().all() for name, t in tensors.items() if name.startswith("model."))


def test_a_full_disk_stops_the_run_in_one_line_and_what_was_saved_is_whole(tmp_path: Path) -> None:
    out, said = tmp_path / "run", tmp_path / "stderr"
    words = ["train", "lenet5", "--data", "digits", "--epochs", "1", "--out", str(out)]
    process = PROCESSES.Process(target=command, args=(words, str(said), 64 << 10))
    process.start()
    process.join(60)
    assert process.exitcode == 1
    assert len(said.read_text().strip().splitlines()) == 1
    assert f"cannot read or write {out}/checkpoints/00000011.safetensors: File too large" in said.read_text()
    assert list((out / "checkpoints").iterdir()) == []
    process = PROCESSES.Process(target=command, args=(["train", "--resume", str(out)], str(said)))
    process.start()
    process.join(60)
    assert process.exitcode == 0
    assert (out / "report.md").exists()


@pytest.mark.gpu
def test_a_cuda_device_trains_as_well(tmp_path: Path, cuda: torch.device) -> None:
    assert ca.train(small_run(epochs=20).replace(precision="bf16"), out=tmp_path / "run", device=cuda.type).metrics["test_top1"] > 80
