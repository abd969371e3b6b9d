"""Memory that is too small: said in one line with what would fit, before the training where it can be known, else when it runs out."""

import os
import re
import resource
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.small_runs import PROCESSES, command, small_run

import convatlas as ca
from convatlas import models, recipes
from convatlas.errors import UsageError, UserError
from convatlas.runtime import hardware
from convatlas.training import loop
from convatlas.training.run import Run, RunFile, serialize_run_file


def run(batch: int = 512, evaluation_batch: int = 64, **recipe: Any) -> Run:
    """A pass of 512 images of which keeps about 60 MB."""
    whole = ca.Run(model=models.get_architecture("resnet20_cifar", width=0.25, image_size=24), data="digits")
    recipe = {"batch": batch, "budget": recipes.Iterations(1), "augment": ()} | recipe
    return whole.replace(recipe=whole.recipe.replace(**recipe), precision="fp32", evaluation_batch=evaluation_batch)


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Lets there be so many megabytes, of which 10 are gone."""

    def grant(megabytes: int) -> None:
        monkeypatch.setattr(hardware, "memory_bytes", lambda: megabytes * 10**6)
        monkeypatch.setattr(hardware, "resident_bytes", lambda: 10**7)

    return grant


def test_a_batch_that_cannot_fit_is_refused_before_training_and_the_one_that_is_named_fits(room: Any, tmp_path: Path) -> None:
    room(40)
    with pytest.raises(UsageError, match=r"^512 images at once need .* and there are 40\.0 MB for this process; ") as error:
        ca.train(run(), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    found = re.search(r"by the plan (\d+) fit: --set recipe.micro_batch=(\d+) \(the batch stays, in (\d+) parts\)", str(error.value))
    assert found
    most, micro_batch, parts = map(int, found.groups())
    assert micro_batch <= most < 512
    assert (parts - 1) * micro_batch < 512 <= parts * micro_batch
    ca.train(run(micro_batch=micro_batch), out=tmp_path / "run")


def test_it_is_tried_all_the_same_where_the_user_says_so(room: Any, tmp_path: Path) -> None:
    room(40)
    assert ca.train(run(), out=tmp_path / "run", force=True).metrics["test_n"] == 180


def test_where_not_even_one_image_fits_the_network_is_too_large(room: Any, tmp_path: Path) -> None:
    room(10)
    with pytest.raises(UsageError, match="by the plan not even one fits: take smaller images, or a narrower network"):
        ca.train(run(), out=tmp_path / "run")


def test_a_batch_of_evaluation_that_cannot_fit_is_refused(room: Any, tmp_path: Path) -> None:
    room(14)
    with pytest.raises(UsageError, match=r"in evaluation 179 images at once need .*: --set evaluation_batch=\d+"):
        ca.train(run(batch=1, evaluation_batch=10**6), out=tmp_path / "run")


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
        RuntimeError("[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 9"),
        MemoryError(),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("phase", ["training", "evaluation"])
def test_what_torch_raises_is_said_with_what_would_fit(
    error: Exception, phase: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(loop, {"training": "accumulate_gradients", "evaluation": "predict_split"}[phase], fail)
    with pytest.raises(UserError) as said:
        ca.train(small_run(epochs=1), out=tmp_path / "run")
    message = str(said.value)
    assert "others use this memory" in message
    if phase == "training":
        assert "out of memory with 32 images at once" in message
        assert "recipe.micro_batch=16 (the batch stays, in 2 parts)" in message
    else:
        assert "out of memory in evaluation, in batches of 179" in message
        assert "--set evaluation_batch=89" in message


def test_another_error_stays_what_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(loop, "accumulate_gradients", fail)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        ca.train(small_run(epochs=1), out=tmp_path / "run")


def confined(arguments: list[str], errors: str, more: int) -> None:
    """`convatlas ARGUMENTS` in a process that can have no more than so many bytes beside those that it has now."""
    size = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE") + more
    resource.setrlimit(resource.RLIMIT_AS, (size, resource.RLIM_INFINITY))
    command(arguments, errors)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc")
def test_memory_that_really_runs_out_is_one_line(tmp_path: Path) -> None:
    file, said = tmp_path / "run.json", tmp_path / "stderr"
    file.write_bytes(serialize_run_file(RunFile(run=run(batch=1438), environment={})))
    process = PROCESSES.Process(target=confined, args=(["train", str(file), "--out", str(tmp_path / "run"), "--json"], str(said), 10**8))
    process.start()
    process.join(60)
    lines = said.read_text().splitlines()
    assert process.exitcode == 1, lines
    assert lines[-1].startswith("convatlas: out of memory with 1438 images at once; by the plan"), lines
    assert "recipe.micro_batch=719" in lines[-1]
    assert not any("Traceback" in line for line in lines)
