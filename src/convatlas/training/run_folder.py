"""A run's folder: its paths, and who may write there."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from convatlas.errors import UsageError, printable
from convatlas.runtime.distributed.ranks import SINGLE_PROCESS, Ranks
from convatlas.storage.atomic import FILE_OPS, FileOps, atomic_write
from convatlas.storage.lock import folder_lock
from convatlas.storage.records import diff
from convatlas.storage.regular_file import check_no_links, read_user_file
from convatlas.training.run import Run, RunFile, read_run_file, serialize_run_file

ORPHAN_SECONDS = 15.0  # that loader workers may outlive a killed rank, and hold its folder


@dataclass(frozen=True)
class RunFolder:
    """The folder of a run, on every rank; rank 0 alone writes there."""

    path: Path
    run_file: RunFile

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def model_file(self) -> Path:
        return self.path / "model.safetensors"

    @property
    def metrics_file(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def timing_file(self) -> Path:
        return self.path / "timing.jsonl"


def read_run_folder(path: Path) -> RunFile | None:
    """The `run.json` of a folder; None where there is none. Raises as `read_run_file`, and UserError."""
    file = path / "run.json"
    if not os.path.lexists(file):
        return None
    return read_run_file(read_user_file(file), str(file))


@contextmanager
def open_run_folder(
    path: Path,
    run_file: RunFile,
    existing: RunFile | None,
    force: bool = False,
    ranks: Ranks = SINGLE_PROCESS,
    ops: FileOps = FILE_OPS,
) -> Iterator[RunFolder]:
    """Start a run's folder, or continue in it; rank 0 alone does. `existing` is the folder's run.json, None
    for a new run.

    Raises UsageError when the folder holds another run or a link, another process writes there, or the
    environment differs from the one in which the run was started (`force` continues all the same).
    """
    folder = RunFolder(path, run_file if existing is None else existing)
    if ranks.rank:
        yield folder
        return
    if existing is None and path.is_dir() and any(entry.name != ".lock" for entry in path.iterdir()):
        raise UsageError(f"{printable(path)} is not empty and holds no run: give another folder with --out")
    path.mkdir(parents=True, exist_ok=True)
    check_no_links(path)
    with folder_lock(path, ORPHAN_SECONDS if ranks.restart_count else 0.0):
        if existing is None:
            atomic_write(path / "run.json", serialize_run_file(run_file), ops)
        else:
            _check_same(path, existing, run_file, force)
        folder.checkpoints.mkdir(exist_ok=True)
        for leftover in [
            *path.glob(".*.tmp"),
            *folder.checkpoints.glob(".*.tmp"),
        ]:  # of a process killed while it wrote
            leftover.unlink(missing_ok=True)
        yield folder


def _check_same(path: Path, existing: RunFile, run_file: RunFile, force: bool) -> None:
    if existing.run != run_file.run:
        raise UsageError(
            f"{printable(path)} holds another run ({_first_change(existing.run, run_file.run)}): "
            "give another folder with --out"
        )
    changes = diff(dict(existing.environment), dict(run_file.environment))
    if changes and not force:
        raise UsageError(
            f"{printable(path)} was started in another environment ({'; '.join(changes)}), so it would not "
            "end with the same weights: continue all the same with --force"
        )


def _first_change(before: Run, after: Run) -> str:
    return diff(before, after)[0]
