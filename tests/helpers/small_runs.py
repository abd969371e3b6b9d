"""A training that takes a second: LeNet-5 at half width, with dropout, on digits."""

import multiprocessing
import os
import resource
import sys
from pathlib import Path

import convatlas as ca
from convatlas import models, recipes
from convatlas.cli.main import main
from convatlas.storage import checked_safetensors
from convatlas.storage.checked_safetensors import hash_tensors

os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # as the command does, before torch is loaded
PROCESSES = multiprocessing.get_context("forkserver")  # imports torch once; every child is a fork of a process that never computed
PROCESSES.set_forkserver_preload(["helpers.rank_jobs", "convatlas.training.train", "convatlas.cli.commands", "sklearn.datasets", "torch._dynamo"])


def small_run(seed: int = 0, epochs: int = 4, **changes: object) -> ca.Run:
    run = ca.Run(model=models.get_architecture("lenet5", dropout=0.5, width=0.5), data="digits", seed=seed)
    recipe = run.recipe.replace(batch=32, budget=recipes.Epochs(epochs))
    return run.replace(recipe=recipe, save_every=10, log_every=1, precision="fp32", **changes)


def train_quietly(out: str, workers: int, epochs: int) -> None:
    """In a process and a group of its own, on one core, silently."""
    os.setsid()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    ca.train(small_run(epochs=epochs), out=out, workers=workers)


def command(arguments: list[str], errors: str, largest_file: int | None = None) -> None:
    """`convatlas ARGUMENTS` in a process and a group of its own; what it says on stderr goes to a file."""
    os.setsid()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT), 2)
    if largest_file is not None:  # as a disk that is full
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, resource.RLIM_INFINITY))
    sys.exit(main(arguments))


def weights(out: Path) -> str:
    return hash_tensors(checked_safetensors.read_checked(out / "model.safetensors")[0])


def last_step(out: Path) -> int:
    """The last step that the log tells of, 0 before the first."""
    try:
        lines = (out / "metrics.jsonl").read_bytes().splitlines()
        return int(lines[-1].split(b'"step":')[1].split(b",")[0])
    except (OSError, IndexError, ValueError):
        return 0
