"""A training that takes a second: LeNet-5 at half width, with dropout, on digits."""

import multiprocessing
import os
import resource
import sys
from pathlib import Path

import convatlas as ca
from convatlas import models, recipes
from convatlas.cli.main import main
from convatlas.storage.checked_safetensors import hash_tensors, read_checked

os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # as the command does, before torch is loaded
# The fork server imports torch once; every child is a fork of a process that has never computed.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(
    [
        "helpers.rank_jobs",
        "convatlas.training.train",
        "convatlas.cli.registry",
        "sklearn.datasets",
        "torch._dynamo",
    ]
)


def small_run(seed: int = 0, epochs: int = 4, **changes: object) -> ca.Run:
    architecture = models.get_architecture("lenet5", dropout=0.5, width=0.5)
    run = ca.Run(model=architecture, data="digits", seed=seed)
    recipe = run.recipe.replace(batch=32, budget=recipes.Epochs(epochs))
    return run.replace(recipe=recipe, save_every=10, log_every=1, precision="fp32", **changes)


def _enter_process_group_on_one_core() -> None:
    os.setsid()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def train_quietly(run: ca.Run, out: str, workers: int) -> None:
    """Train without output, in this process, which becomes a process group of its own on one core."""
    _enter_process_group_on_one_core()
    ca.train(run, out=out, workers=workers)


def run_command(arguments: list[str], stderr: str, max_file_bytes: int | None = None) -> None:
    """Run `convatlas ARGUMENTS` in this process, which becomes a process group of its own on one core;
    `stderr` is the file that takes its stderr. With `max_file_bytes`, larger files fail as on a full disk."""
    _enter_process_group_on_one_core()
    os.dup2(os.open(stderr, os.O_WRONLY | os.O_CREAT), 2)
    if max_file_bytes is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (max_file_bytes, resource.RLIM_INFINITY))
    sys.exit(main(arguments))


def weights_sha256(out: Path) -> str:
    """The hash of the weights that a run has saved."""
    tensors, _ = read_checked(out / "model.safetensors")
    return hash_tensors(tensors)


def last_step(out: Path) -> int:
    """The last step in the log of a run, 0 before the first."""
    try:
        lines = (out / "metrics.jsonl").read_bytes().splitlines()
        return int(lines[-1].split(b'"step":')[1].split(b",")[0])
    except (OSError, IndexError, ValueError):
        return 0
