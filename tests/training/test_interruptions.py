"""A run that is interrupted at any moment, and however often, ends with the same weights and the same log."""

import os
import random
import signal
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch
from helpers.mask_shapes import make_shapes, unet_run
from helpers.small_runs import PROCESSES, last_step, run_command, small_run, train_quietly, weights_sha256

import convatlas as ca
from convatlas import models, training
from convatlas.data.transforms.random_tile import RandomTile
from convatlas.errors import UsageError, UserError
from convatlas.optim.losses import PixelCrossEntropy
from convatlas.runtime.signals import StoppedBySignal
from convatlas.storage.checked_safetensors import read_checked
from convatlas.training import loop
from convatlas.training.run import RunFile, serialize_run_file
from convatlas.training.run_folder import read_run_folder
from convatlas.training.validation import is_due

RUN = small_run(epochs=12)  # 528 steps
NUM_KILLS = 12


def start_training(out: Path, workers: int, run: ca.Run = RUN) -> BaseProcess:
    process: BaseProcess = PROCESSES.Process(target=train_quietly, args=(run, str(out), workers))
    process.start()
    return process


def finish_training(out: Path, workers: int, run: ca.Run = RUN) -> None:
    process = start_training(out, workers, run)
    process.join()
    assert process.exitcode == 0


def start_command(arguments: list[str], stderr: Path, max_file_bytes: int | None = None) -> BaseProcess:
    process: BaseProcess = PROCESSES.Process(
        target=run_command, args=(arguments, str(stderr), max_file_bytes)
    )
    process.start()
    return process


def kill_group(process: BaseProcess) -> None:
    assert process.pid is not None
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:  # so early that it is not yet a group of its own
        process.kill()
    process.join()


def assert_same_run(out: Path, expected: Path) -> None:
    assert weights_sha256(out) == weights_sha256(expected)
    for name in ("metrics.jsonl", "run.json"):
        assert (out / name).read_bytes() == (expected / name).read_bytes()


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("uninterrupted") / "run"
    finish_training(out, 0)
    return out


@pytest.mark.parametrize("workers", [0, 2])
def test_twelve_kills_at_random_moments_leave_no_trace(
    uninterrupted: Path, tmp_path: Path, workers: int
) -> None:
    out = tmp_path / "run"
    rng = random.Random(workers)
    for kill in range(NUM_KILLS):
        process = start_training(out, workers)
        target_step = last_step(out) + rng.randint(-15, 45)
        while process.is_alive() and last_step(out) < target_step:
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.02))
        assert process.is_alive(), f"the training ended after {kill} kills"
        kill_group(process)
    finish_training(out, workers)
    assert_same_run(out, uninterrupted)


def test_a_unet_that_is_killed_draws_the_same_tiles_deformations_and_weights_again(tmp_path: Path) -> None:
    run = unet_run(make_shapes(tmp_path / "shapes"), epochs=2)  # 8 steps
    assert isinstance(run.recipe.crop, RandomTile)
    assert run.recipe.crop.elastic is not None
    assert isinstance(run.recipe.loss, PixelCrossEntropy)
    recipe = run.recipe.replace(
        crop=run.recipe.crop.replace(hflip=True), loss=run.recipe.loss.replace(border_weight=10.0)
    )
    model = models.get_architecture("unet", width=0.04, image_size=(220, 236))
    run = run.replace(model=model, recipe=recipe, save_every=2, log_every=1)
    finish_training(tmp_path / "uninterrupted", 0, run)
    for workers, step in ((0, 3), (1, 6)):
        process = start_training(tmp_path / "run", workers, run)
        while process.is_alive() and last_step(tmp_path / "run") < step:
            time.sleep(0.002)
        assert process.is_alive()
        kill_group(process)
    assert not (tmp_path / "run" / "report.md").exists()
    finish_training(tmp_path / "run", 0, run)
    assert_same_run(tmp_path / "run", tmp_path / "uninterrupted")


def test_another_seed_would_be_noticed(uninterrupted: Path, tmp_path: Path) -> None:
    ca.train(small_run(seed=1, epochs=1), out=tmp_path / "run")
    assert weights_sha256(tmp_path / "run") != weights_sha256(uninterrupted)


def test_finishing_twice_changes_nothing(tmp_path: Path) -> None:
    out = tmp_path / "run"
    result = ca.train(small_run(epochs=1), out=out)
    log, weights = (out / "metrics.jsonl").read_bytes(), weights_sha256(out)
    assert ca.train(small_run(epochs=1), out=out) == result
    assert training.resume(out) == result
    assert ((out / "metrics.jsonl").read_bytes(), weights_sha256(out)) == (log, weights)


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_to_the_process_group_saves_and_sets_the_exit_code(
    tmp_path: Path, number: signal.Signals, exit_code: int
) -> None:
    out = tmp_path / "run"
    arguments = [
        "train",
        "lenet5",
        "--data",
        "digits",
        "--epochs",
        "1000",
        "--out",
        str(out),
        "--workers",
        "1",
    ]
    process = start_command(arguments, tmp_path / "stderr")
    while last_step(out) < 30 and process.is_alive():
        time.sleep(0.01)
    assert process.pid is not None
    os.killpg(process.pid, number)
    process.join(60)
    error = (tmp_path / "stderr").read_text()
    assert process.exitcode == exit_code, error
    assert "stopped and saved at step" in error
    assert "Traceback" not in error
    checkpoint = max((out / "checkpoints").iterdir())
    assert f"step {int(checkpoint.stem)} of" in error
    read_checked(checkpoint)


def stop_at_step_32(out: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Train until a signal within the first of two epochs; returns the checkpoints, oldest first."""
    signals: list[int] = []

    def raise_signal(step: int, every: int, last: int) -> bool:
        if step == 32 and not signals:  # after the step; the loop stops before the next one
            signals.append(step)
            signal.raise_signal(signal.SIGTERM)
        return is_due(step, every, last)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "is_due", raise_signal)
        with pytest.raises(StoppedBySignal, match="saved at step 32 of 88"):
            ca.train(small_run(epochs=2), out=out)
    return sorted((out / "checkpoints").iterdir())


@pytest.fixture(scope="module")
def two_epochs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ca.train(small_run(epochs=2), out=tmp_path_factory.mktemp("two_epochs") / "run").out


def test_stopping_within_an_epoch_and_continuing_leaves_no_trace(
    two_epochs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_at_step_32(tmp_path / "run", monkeypatch)
    ca.train(small_run(epochs=2), out=tmp_path / "run", workers=1)
    assert_same_run(tmp_path / "run", two_epochs)


def test_resume_takes_the_run_from_its_folder(
    two_epochs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_at_step_32(tmp_path / "run", monkeypatch)
    assert training.resume(tmp_path / "run").out == tmp_path / "run"
    assert_same_run(tmp_path / "run", two_epochs)
    with pytest.raises(UsageError, match=r"holds no run\.json: expected a run's folder"):
        training.resume(tmp_path)


def test_a_corrupt_checkpoint_is_replaced_by_the_one_before(
    two_epochs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    newest = stop_at_step_32(tmp_path / "run", monkeypatch)[-1]
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 1
    newest.write_bytes(data)
    ca.train(small_run(epochs=2), out=tmp_path / "run")
    warning = f"{newest} is damaged: its content does not match its SHA-256; falling back to the checkpoint"
    assert warning in capsys.readouterr().out
    assert_same_run(tmp_path / "run", two_epochs)


def test_a_log_that_has_lost_lines_is_written_again(
    two_epochs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_at_step_32(tmp_path / "run", monkeypatch)
    log = tmp_path / "run" / "metrics.jsonl"
    log.write_bytes(b"".join(log.read_bytes().splitlines(keepends=True)[:-1]))
    training.resume(tmp_path / "run")
    assert_same_run(tmp_path / "run", two_epochs)


def test_a_run_without_a_usable_checkpoint_is_not_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for checkpoint in stop_at_step_32(tmp_path / "run", monkeypatch):
        checkpoint.write_bytes(checkpoint.read_bytes()[:-1])
    with pytest.raises(UserError, match="none of the 2 checkpoints"):
        ca.train(small_run(epochs=2), out=tmp_path / "run")


def test_a_damaged_log_is_refused_on_resume_by_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_at_step_32(tmp_path / "run", monkeypatch)
    log = tmp_path / "run" / "metrics.jsonl"
    data = bytearray(log.read_bytes())
    data[data.index(b'"step":3,') + len(b'"step":')] = ord("4")
    log.write_bytes(data)
    checkpoints = sorted((tmp_path / "run" / "checkpoints").iterdir())
    with pytest.raises(UserError, match=r"metrics\.jsonl is damaged at line 3: "):
        training.resume(tmp_path / "run")
    assert sorted((tmp_path / "run" / "checkpoints").iterdir()) == checkpoints
    assert log.read_bytes() == data


def test_another_environment_is_refused_and_can_be_forced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_at_step_32(tmp_path / "run", monkeypatch)
    run_file = read_run_folder(tmp_path / "run")
    assert run_file is not None
    older = dict(run_file.environment) | {"torch": "0.1"}
    (tmp_path / "run" / "run.json").write_bytes(serialize_run_file(run_file.replace(environment=older)))
    with pytest.raises(UsageError, match=r"torch: \"0\.1\" -> .*--force"):
        ca.train(small_run(epochs=2), out=tmp_path / "run")
    ca.train(small_run(epochs=2), out=tmp_path / "run", force=True)


def test_a_run_file_that_was_edited_is_refused_on_resume(tmp_path: Path) -> None:
    written = serialize_run_file(RunFile(run=small_run()))
    (tmp_path / "run.json").write_bytes(written.replace(b'"seed": 0', b'"seed": 1'))
    with pytest.raises(UsageError, match=r"run\.json was changed after ConvAtlas wrote it"):
        training.resume(tmp_path)


def test_a_folder_with_another_run_or_other_files_is_left_alone(tmp_path: Path) -> None:
    ca.train(small_run(epochs=1), out=tmp_path / "run")
    before = weights_sha256(tmp_path / "run")
    message = r"holds another run \(seed: 0 -> 1\): give another folder with --out"
    with pytest.raises(UsageError, match=message):
        ca.train(small_run(seed=1, epochs=1), out=tmp_path / "run")
    assert weights_sha256(tmp_path / "run") == before
    with pytest.raises(UsageError, match="not empty and holds no run"):
        ca.train(small_run(epochs=1), out=tmp_path)


def test_a_loss_that_is_not_finite_ends_the_run_with_finite_weights(tmp_path: Path) -> None:
    run = ca.Run(model="resnet20_cifar", data="digits")
    optimizer = run.recipe.optimizer.replace(lr=1e30)
    run = run.replace(recipe=run.recipe.replace(optimizer=optimizer), precision="fp32")
    with pytest.raises(UserError, match=r"the loss is not finite at step (\d+) .*saved in") as error:
        ca.train(run, out=tmp_path / "run")
    step = int(str(error.value).split("at step ")[1].split()[0])
    tensors, _ = read_checked(tmp_path / "run" / "checkpoints" / f"{step - 1:08d}.safetensors")
    weights = [tensor for name, tensor in tensors.items() if name.startswith("model.")]
    assert weights
    assert all(tensor.isfinite().all() for tensor in weights)


def test_a_full_disk_ends_the_run_in_one_line_and_it_can_continue(tmp_path: Path) -> None:
    out = tmp_path / "run"
    stderr = tmp_path / "stderr"
    arguments = ["train", "lenet5", "--data", "digits", "--epochs", "1", "--out", str(out)]
    process = start_command(arguments, stderr, max_file_bytes=64 << 10)
    process.join(60)
    error = stderr.read_text()
    assert process.exitcode == 1
    assert len(error.strip().splitlines()) == 1
    assert f"cannot read or write {out}/checkpoints/00000044.safetensors: File too large" in error
    assert list((out / "checkpoints").iterdir()) == []
    process = start_command(["train", "--resume", str(out)], stderr)
    process.join(60)
    assert process.exitcode == 0
    assert (out / "report.md").exists()


@pytest.mark.gpu
def test_a_training_on_a_cuda_device_learns(tmp_path: Path, cuda: torch.device) -> None:
    run = small_run(epochs=20).replace(precision="bf16")
    assert ca.train(run, out=tmp_path / "run", device=cuda.type).metrics["test_top1"] > 80
