"""A process that trains runs of studies one after the other: `python -m convatlas.studies.worker`.

Each line on stdin is a task, each line on stdout the name of a result that was written. All else goes to
stderr."""

import os
import sys
import time
from pathlib import Path
from typing import Any

import msgspec

from convatlas.errors import NonFiniteLossError, UserError
from convatlas.runtime.signals import StoppedBySignal, raise_on_signals
from convatlas.storage.atomic import atomic_write
from convatlas.storage.json_lines import read_json_lines
from convatlas.storage.records import from_json, to_json
from convatlas.studies.run_result import RunResult, collect_result, read_points
from convatlas.studies.task import Task
from convatlas.training.progress import NullDisplay
from convatlas.training.run import RunFile
from convatlas.training.run_folder import RunFolder, read_run_folder
from convatlas.training.train import train_and_finish


def perform(task: Task) -> RunResult:
    """Raises StoppedBySignal."""
    start = time.perf_counter()
    folder = Path(task.folder)
    try:
        return train_and_finish(
            task.run,
            folder,
            lambda ctx, predictions: collect_result(ctx, predictions, time.perf_counter() - start),
            task.device,
            NullDisplay(),
        )
    except UserError as error:
        existing = read_run_folder(folder)
        diverged = isinstance(error, NonFiniteLossError) and existing is not None
        return RunResult(
            run=existing.run.id if existing else task.run.id,
            outcome="diverged" if diverged else "failed",
            seconds=round(time.perf_counter() - start, 2),
            steps=existing.run.steps if existing else 0,
            environment=dict(existing.environment) if existing else {},
            message=str(error),
            points=read_points(_log_lines(folder, existing)) if existing and diverged else (),
        )


def _log_lines(folder: Path, run_file: RunFile) -> list[dict[str, Any]]:
    return [msgspec.json.decode(line) for line in read_json_lines(RunFolder(folder, run_file).metrics_file)]


def main() -> int:
    results = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    try:
        with raise_on_signals():
            for line in sys.stdin:
                task = from_json(line.encode(), Task, "a task of a study")
                atomic_write(Path(task.result), to_json(perform(task)))
                print(task.result, file=results, flush=True)
    except StoppedBySignal as stopped:
        return stopped.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
