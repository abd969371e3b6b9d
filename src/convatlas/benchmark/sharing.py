"""`bench train --beside`: how much of the machine two trainings reach together.

`alone` is one training, `together` two that start at the same time, `latecomer` one that starts beside
another, `a thread each` two with one thread each. A rate is that of all trainings of the row together, over
the time in which all of them compute.
"""

import itertools
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from convatlas.benchmark.harness import Measurement, run_interleaved
from convatlas.benchmark.training import default_batch
from convatlas.errors import UserError
from convatlas.runtime.device import best_precision, select_device
from convatlas.runtime.runtime import Runtime

SECONDS = 8.0  # in which all trainings of a row compute
START_SECONDS = 6.0  # that one starts later than another


@dataclass(frozen=True)
class Row:
    """`starts`: the seconds after which each training starts; `threads` of each, None: as by default."""

    starts: tuple[float, ...]
    threads: int | None = None


ROWS = {
    "alone": Row((0.0,)),
    "together": Row((0.0, 0.0)),
    "latecomer": Row((0.0, START_SECONDS)),
    "a thread each": Row((0.0, 0.0), threads=1),
}


def benchmark_sharing(
    model: str, batch: int | None, rounds: int | None, say: Callable[[str], None]
) -> dict[str, Any]:
    """The document of `bench train --beside`; `ratio` is that to `alone`."""
    images = default_batch(model, batch)

    def measure(name: str) -> Measurement:
        ends = _run(model, images, ROWS[name])
        return {"images_per_second": common_rate(ends) * images}

    rows = run_interleaved(list(ROWS), rounds, measure, say, baseline="alone")
    device = select_device()
    return {
        "kind": "train",
        "model": model,
        "batch": images,
        "rounds": max(row["rounds"] for row in rows),
        "baseline": "alone",
        "machine": Runtime(device, best_precision(device)).describe(),
        "rows": rows,
    }


def common_rate(ends: Sequence[Sequence[float]]) -> float:
    """Steps a second of all trainings together, from the times at which the steps of each ended, in the time
    that they have in common."""
    start, end = max(times[0] for times in ends), min(times[-1] for times in ends)
    within = [[time for time in times if start <= time <= end] for times in ends]
    if any(len(times) < 2 for times in within):
        raise UserError("the trainings did not compute at the same time: take a smaller batch")
    # between its first and last step in that time, of each training
    return sum((len(times) - 1) / (times[-1] - times[0]) for times in within)


def _run(model: str, batch: int, row: Row) -> list[list[float]]:
    """The times at which the steps of each training of a row ended."""
    threads = ["--threads", str(row.threads)] if row.threads else []
    processes: list[subprocess.Popen[str]] = []
    last = max(row.starts)
    try:
        for start, following in itertools.pairwise((*row.starts, last)):
            seconds = str(SECONDS + 2 * (last - start))
            arguments = ["train", model, "--batch", str(batch), "--seconds", seconds, *threads]
            command = [sys.executable, "-m", "convatlas", "bench", *arguments]
            processes.append(
                subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            )
            time.sleep(following - start)
        outputs = [process.communicate() for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, (_, stderr) in zip(processes, outputs, strict=True):
        if process.returncode != 0:
            raise UserError(f"a training failed: {(stderr.strip().splitlines() or ['no message'])[-1]}")
    return [json.loads(stdout)["ends"] for stdout, _ in outputs]
