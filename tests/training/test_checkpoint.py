"""Checkpoints: written while training goes on, whole after any crash, in step with the log."""

import errno
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from threading import Event
from typing import NamedTuple

import numpy as np
import pytest
import torch
from helpers.crash_disk import RecordingDisk
from helpers.small_runs import small_run

import convatlas as ca
from convatlas import models
from convatlas.data.dataset import ArrayImages
from convatlas.data.transforms.normalize import PixelRange
from convatlas.data.transforms.preprocessing import fixed_size_preprocessing
from convatlas.errors import UserError
from convatlas.optim.optimizers import SGD
from convatlas.optim.plateau import PlateauState
from convatlas.runtime.distributed.ranks import Ranks
from convatlas.storage.atomic import FILE_OPS, FileOps
from convatlas.storage.checked_safetensors import hash_tensors
from convatlas.training.checkpoint import CheckpointManager, TrainState
from convatlas.training.metrics_log import FileMetricsLog, MetricsLog
from convatlas.training.objective import Objective
from convatlas.training.run import RunFile
from convatlas.training.run_folder import RunFolder, open_run_folder, read_run_folder

RUN = small_run()


class Training(NamedTuple):
    """What a checkpoint stores: a small objective, and an optimiser that has taken a step."""

    objective: Objective
    optimizer: torch.optim.Optimizer


@pytest.fixture
def training() -> Training:
    preprocessing = fixed_size_preprocessing(1, (8, 8), (32, 32))
    images = ArrayImages(np.zeros((1, 1, 8, 8), np.uint8))
    model = models.create_model("lenet5", width=0.25)
    objective = Objective(model, PixelRange(low=0, high=1).fit(images, preprocessing), RUN.recipe.loss)
    optimizer = SGD(lr=0.1, momentum=0.9).build(model)
    objective.model(torch.ones(2, 1, 32, 32)).sum().backward()
    optimizer.step()
    return Training(objective, optimizer)


class Logs(NamedTuple):
    """The open folder of a run."""

    folder: RunFolder
    log: FileMetricsLog
    checkpoints: CheckpointManager


@contextmanager
def open_run(path: Path, run: ca.Run = RUN, ops: FileOps = FILE_OPS) -> Iterator[Logs]:
    run_file = RunFile(run=run, environment={"threads": 1})
    with (
        open_run_folder(path, run_file, read_run_folder(path), ops=ops) as folder,
        closing(FileMetricsLog(folder, ops)) as log,
        closing(CheckpointManager(folder, log, ops=ops)) as checkpoints,
    ):
        yield Logs(folder, log, checkpoints)


def write_steps(opened: Logs, training: Training, last: int, every: int = 2) -> None:
    """Log the steps from 1 to `last`, and save a checkpoint at every second one."""
    for step in range(1, last + 1):
        opened.log.log(step=step, split="train", loss=1.0)
        if step % every == 0:
            opened.checkpoints.save(TrainState(step), *training)
            opened.checkpoints.wait()


def saved_steps(folder: RunFolder) -> list[int]:
    return sorted(int(file.stem) for file in folder.checkpoints.iterdir())


class StuckDisk(FileOps):
    """Creates no checkpoint before it is released, and then none if it is full."""

    def __init__(self) -> None:
        self.released = Event()
        self.full = False

    def open_new(self, path: Path) -> int:
        if path.parent.name == "checkpoints":
            assert self.released.wait(60)
            if self.full:
                raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return super().open_new(path)


def test_a_checkpoint_holds_the_weights_of_the_moment_it_was_saved(
    training: Training, tmp_path: Path
) -> None:
    disk = StuckDisk()
    objective, optimizer = training
    weights_sha256 = hash_tensors(objective.weights())
    with open_run(tmp_path / "run", ops=disk) as (folder, log, checkpoints):
        checkpoints.save(TrainState(1), objective, optimizer, {"step": 1})
        optimizer.step()  # while the disk is stuck
        assert saved_steps(folder) == []
        disk.released.set()
        log.log(step=2)
        assert [line["step"] for line in log.lines()] == [1, 2]
        assert log.lines()[0]["event"] == "checkpoint"
        assert log.lines()[0]["weights_sha256"] == weights_sha256
        assert hash_tensors(objective.weights()) != weights_sha256
        assert checkpoints.load(objective, optimizer).step == 1
        assert hash_tensors(objective.weights()) == weights_sha256


def test_a_full_disk_is_reported_at_the_next_line(training: Training, tmp_path: Path) -> None:
    disk = StuckDisk()
    disk.released.set()
    with open_run(tmp_path / "run", ops=disk) as (folder, log, checkpoints):
        checkpoints.save(TrainState(1), *training)
        checkpoints.wait()
        disk.full = True
        checkpoints.save(TrainState(2), *training)
        with pytest.raises(OSError, match="No space left"):
            log.log(step=3)
        assert saved_steps(folder) == [1]


def test_the_last_two_checkpoints_are_kept(training: Training, tmp_path: Path) -> None:
    with open_run(tmp_path / "run") as opened:
        write_steps(opened, training, 8)
        assert saved_steps(opened.folder) == [6, 8]


def test_a_checkpoint_restores_state_and_optimiser(training: Training, tmp_path: Path) -> None:
    totals = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    state = TrainState(7, PlateauState(best=1.5, num_drops=1), totals)
    before = {i: values["momentum_buffer"].clone() for i, values in momentum(training.optimizer).items()}
    with open_run(tmp_path / "run") as opened:
        opened.checkpoints.save(state, *training)
        training.optimizer.step()
        after = momentum(training.optimizer)
        assert any(not torch.equal(after[i]["momentum_buffer"], before[i]) for i in before)
        loaded = opened.checkpoints.load(*training)
    assert (loaded.step, loaded.plateau) == (7, state.plateau)
    assert torch.equal(loaded.running_totals, totals)
    after = momentum(training.optimizer)
    assert all(torch.equal(after[i]["momentum_buffer"], before[i]) for i in before)


def momentum(optimizer: torch.optim.Optimizer) -> dict[int, dict[str, torch.Tensor]]:
    states: dict[int, dict[str, torch.Tensor]] = optimizer.state_dict()["state"]
    return states


def test_a_loss_that_is_not_finite_is_not_saved(training: Training, tmp_path: Path) -> None:
    with open_run(tmp_path / "run") as opened:
        write_steps(opened, training, 2)
        totals = torch.tensor([torch.nan, 0, 32], dtype=torch.float64)
        with pytest.raises(UserError, match="the loss became non-finite before step 4"):
            opened.checkpoints.save(TrainState(4, running_totals=totals), *training)
        assert saved_steps(opened.folder) == [2]


def test_the_other_ranks_save_nothing(training: Training, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run", RunFile(run=RUN))
    with closing(CheckpointManager(folder, MetricsLog(), Ranks(rank=1, world_size=2))) as checkpoints:
        checkpoints.save(TrainState(1), *training, {"step": 1})
        checkpoints.wait()
    assert not (tmp_path / "run").exists()


def test_the_checkpoint_of_another_run_is_not_loaded(training: Training, tmp_path: Path) -> None:
    with open_run(tmp_path / "run") as opened:
        write_steps(opened, training, 2)
    with open_run(tmp_path / "other", small_run(seed=1)) as opened:
        write_steps(opened, training, 2)
        (checkpoint,) = opened.folder.checkpoints.iterdir()
        checkpoint.write_bytes((tmp_path / "run" / "checkpoints" / checkpoint.name).read_bytes())
        with pytest.raises(UserError, match=r"none of the 1 checkpoints in .* can be used"):
            opened.checkpoints.load(*training)
        assert opened.checkpoints.warnings == [
            f"{checkpoint} belongs to another run; falling back to the checkpoint before"
        ]


def test_a_log_that_has_lost_lines_takes_the_run_back_a_checkpoint(
    training: Training, tmp_path: Path
) -> None:
    with open_run(tmp_path / "run") as opened:
        write_steps(opened, training, 6)
    log = opened.folder.metrics_file
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join(lines[:5]))
    with open_run(tmp_path / "run") as opened:
        assert opened.checkpoints.load(*training).step == 4
        assert [line["step"] for line in opened.log.lines()] == [1, 2, 3, 4]
        (warning,) = opened.checkpoints.warnings
        assert "lines are lost" in warning
    log.write_bytes(b"".join(lines[:3]))
    with open_run(tmp_path / "run") as opened, pytest.raises(UserError, match="none of the 2 checkpoints"):
        opened.checkpoints.load(*training)


def test_after_a_crash_at_any_point_checkpoint_and_log_agree(training: Training, tmp_path: Path) -> None:
    disk = RecordingDisk()
    saved = [(0, 0)]  # calls of the disk, and the step that was saved after so many
    with open_run(tmp_path / "run", ops=disk) as opened:
        for step in range(1, 7):
            opened.log.log(step=step, split="train", loss=1.0)
            if step % 2 == 0:
                opened.checkpoints.save(TrainState(step), *training)
                opened.checkpoints.wait()
                saved.append((len(disk.log), step))
    num_states = 0
    for number, files in enumerate(disk.crash_states()):
        if not any(path.endswith("run.json") for path in files):
            continue
        num_states += 1
        num_calls = number // 3  # a state for each of three fates of the data that was not synced
        at_least = max(step for calls, step in saved if calls <= num_calls)
        crashed = tmp_path / f"crash{number}"
        for path, data in files.items():
            target = crashed / Path(path).relative_to(tmp_path / "run")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
        with open_run(crashed) as opened:
            step = opened.checkpoints.load(*training).step
            assert step >= at_least
            assert [line["step"] for line in opened.log.lines()] == list(range(1, step + 1))
            assert not list(crashed.rglob("*.tmp"))
    assert num_states > 60


# The state of several ranks


def test_with_another_number_of_ranks_rank_0_takes_all_totals() -> None:
    rows = torch.tensor([[1.0, 2.0, 3.0], [10.0, 20.0, 30.0]], dtype=torch.float64)
    state = TrainState(5, running_totals=rows)
    assert state.local(Ranks(rank=1, world_size=2)).running_totals.tolist() == [10, 20, 30]
    assert state.local(Ranks(rank=0, world_size=3)).running_totals.tolist() == [11, 22, 33]
    assert state.local(Ranks(rank=2, world_size=3)).running_totals.tolist() == [0, 0, 0]


def test_averages_are_over_the_images_since_the_last_call() -> None:
    state = TrainState()
    state.count(torch.tensor(2.0), torch.tensor([True, True, True, False]))
    state.count(torch.tensor(5.0), torch.tensor([0.75, 0.25]))
    assert state.step == 2
    averages = state.averages("top1")
    assert averages == {"loss": pytest.approx(3.0), "top1": pytest.approx(100 * 4 / 6)}
    assert state.running_totals.tolist() == [0, 0, 0]
