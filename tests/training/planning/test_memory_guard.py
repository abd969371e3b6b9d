"""Memory that is too small is one sentence with what would fit: before training where the plan is certain,
else when memory runs out."""

import os
import re
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.small_runs import PROCESSES, run_command, small_run

import convatlas as ca
from convatlas import models, recipes
from convatlas.errors import UsageError, UserError
from convatlas.runtime import hardware
from convatlas.training import validation
from convatlas.training.run import RunFile, serialize_run_file
from convatlas.training.step import TrainStep

SetMemory = Callable[[int], None]


def one_step_run(batch: int = 512, evaluation_batch: int = 64, **recipe_fields: Any) -> ca.Run:
    """A run of one step: a pass of 512 images saves about 60 MB."""
    architecture = models.get_architecture("resnet20_cifar", width=0.25, image_size=24)
    run = ca.Run(model=architecture, data="digits")
    recipe = run.recipe.replace(batch=batch, budget=recipes.Iterations(1), augment=())
    recipe = recipe.replace(**recipe_fields)
    return run.replace(recipe=recipe, precision="fp32", evaluation_batch=evaluation_batch)


@pytest.fixture
def set_memory(monkeypatch: pytest.MonkeyPatch) -> SetMemory:
    """Simulates a machine with so many megabytes, of which 10 are in use."""

    def simulate(megabytes: int) -> None:
        monkeypatch.setattr(hardware, "memory_bytes", lambda: megabytes * 10**6)
        monkeypatch.setattr(hardware, "resident_bytes", lambda: 10**7)

    return simulate


def test_a_batch_that_cannot_fit_is_refused_with_one_that_fits(set_memory: SetMemory, tmp_path: Path) -> None:
    set_memory(40)
    message = r"^512 images at once need .* and 40\.0 MB are available to this process; "
    with pytest.raises(UsageError, match=message) as error:
        ca.train(one_step_run(), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    advice = r"by the plan (\d+) fit: --set recipe.micro_batch=(\d+) \(the batch stays, in (\d+) parts\)"
    match = re.search(advice, str(error.value))
    assert match is not None
    fitting, micro_batch, parts = map(int, match.groups())
    assert micro_batch <= fitting < 512
    assert (parts - 1) * micro_batch < 512 <= parts * micro_batch
    ca.train(one_step_run(micro_batch=micro_batch), out=tmp_path / "run")


def test_force_trains_although_memory_is_too_small(set_memory: SetMemory, tmp_path: Path) -> None:
    set_memory(40)
    assert ca.train(one_step_run(), out=tmp_path / "run", force=True).metrics["test_n"] == 180


def test_memory_for_not_even_one_image_calls_for_a_narrower_network(
    set_memory: SetMemory, tmp_path: Path
) -> None:
    set_memory(10)
    message = "by the plan not even one fits: take smaller images, or a narrower network"
    with pytest.raises(UsageError, match=message):
        ca.train(one_step_run(), out=tmp_path / "run")


def test_an_evaluation_batch_that_cannot_fit_is_refused(set_memory: SetMemory, tmp_path: Path) -> None:
    set_memory(14)
    message = r"in evaluation 179 images at once need .*: --set evaluation_batch=\d+"
    with pytest.raises(UsageError, match=message):
        ca.train(one_step_run(batch=1, evaluation_batch=10**6), out=tmp_path / "run")


def raise_in(monkeypatch: pytest.MonkeyPatch, phase: str, error: Exception) -> None:
    """From now on, the backward of a training, or the predictions of an evaluation, raise `error`."""

    def fail(*arguments: object, **options: object) -> None:
        raise error

    if phase == "training":
        monkeypatch.setattr(TrainStep, "backward", fail)
    else:
        monkeypatch.setattr(validation, "predict_rows", fail)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:124] err == 0. "
            "DefaultCPUAllocator: can't allocate memory: you tried to allocate 9"
        ),
        MemoryError(),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize(
    ("phase", "messages"),
    [
        (
            "training",
            (
                "out of memory with 32 images at once",
                "recipe.micro_batch=16 (the batch stays, in 2 parts)",
            ),
        ),
        (
            "evaluation",
            ("out of memory in evaluation, in batches of 179", "--set evaluation_batch=89"),
        ),
    ],
    ids=["training", "evaluation"],
)
def test_memory_that_runs_out_is_explained_with_what_would_fit(
    error: Exception,
    phase: str,
    messages: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    raise_in(monkeypatch, phase, error)
    with pytest.raises(UserError) as explained:
        ca.train(small_run(epochs=1), out=tmp_path / "run")
    for message in (*messages, "others use this memory"):
        assert message in str(explained.value)


def test_other_errors_are_not_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    error = RuntimeError("mat1 and mat2 shapes cannot be multiplied")
    raise_in(monkeypatch, "training", error)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        ca.train(small_run(epochs=1), out=tmp_path / "run")


def run_command_in_memory(arguments: list[str], stderr: str, max_new_bytes: int) -> None:
    """Run `convatlas ARGUMENTS` in this process, which can take at most so many bytes more."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + max_new_bytes, resource.RLIM_INFINITY))
    run_command(arguments, stderr)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc")
def test_memory_that_really_runs_out_is_one_line(tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    stderr = tmp_path / "stderr"
    file.write_bytes(serialize_run_file(RunFile(run=one_step_run(batch=1438))))
    arguments = ["train", str(file), "--out", str(tmp_path / "run"), "--json"]
    process = PROCESSES.Process(target=run_command_in_memory, args=(arguments, str(stderr), 10**8))
    process.start()
    process.join(60)
    lines = stderr.read_text().splitlines()
    assert process.exitcode == 1, lines
    assert lines[-1].startswith("convatlas: out of memory with 1438 images at once; by the plan"), lines
    assert "recipe.micro_batch=719" in lines[-1]
    assert not any("Traceback" in line for line in lines)
