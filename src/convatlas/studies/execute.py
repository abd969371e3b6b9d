"""Runs of studies side by side, each with one thread on a core of its own, or one after the other."""

import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial
from pathlib import Path

from convatlas.errors import UserError
from convatlas.runtime.num_threads import VARIABLE, usable_core_numbers
from convatlas.storage.atomic import atomic_write
from convatlas.storage.records import to_json
from convatlas.studies.run_result import RunResult
from convatlas.studies.task import Task

ATTEMPTS = 2  # of a run whose process ends without a result
STOP_SECONDS = 60.0  # that a process may take to save

Cores = tuple[int, ...]


class WorkerProcess:
    """A process that performs tasks on some cores, with as many threads."""

    def __init__(self, cores: Cores):
        self.cores = cores
        environment = os.environ | dict.fromkeys((VARIABLE, "OMP_NUM_THREADS"), str(len(cores)))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "convatlas.studies.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            start_new_session=True,  # a Ctrl-C is passed on by this process alone
            preexec_fn=partial(os.sched_setaffinity, 0, cores) if hasattr(os, "sched_setaffinity") else None,
        )
        self._errors: list[str] = []
        self._reader = threading.Thread(target=self._read_errors, daemon=True)
        self._reader.start()

    def _read_errors(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._errors = [*self._errors[-4:], line.strip()]

    def perform(self, task: Task) -> None:
        """Raises UserError when the process ends instead."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(to_json(task).decode() + "\n")
            self._process.stdin.flush()
            reply = self._process.stdout.readline()
        except BrokenPipeError:
            reply = ""
        if not reply:
            code = self._process.wait()
            self._reader.join(1.0)
            last = next((line for line in reversed(self._errors) if line), "no message")
            raise UserError(f"the process that trained it ended with {describe_exit(code)}: {last}")

    def stop(self) -> None:
        """Let the process save what it trains, and end."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()


def describe_exit(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"


def execute(tasks: Sequence[Task], threads: int = 1) -> Iterator[Task]:
    """Perform the tasks, and yield each when its result has been written. Each runs on `threads` cores of its
    own; as many run side by side as there are cores for.

    A run whose process ends is tried once more; then its result says that it failed.
    """
    cores = usable_core_numbers()
    groups = [cores[start : start + threads] for start in range(0, len(cores) - threads + 1, threads)]
    workers = _Workers(groups[: len(tasks)])
    threads_of_workers = ThreadPoolExecutor(len(groups))
    futures = {threads_of_workers.submit(workers.perform, task): task for task in tasks}
    try:
        for future in as_completed(futures):
            future.result()
            yield futures[future]
    finally:
        workers.stop()  # their threads wait for them
        threads_of_workers.shutdown(cancel_futures=True)


class _Workers:
    """Processes that are started when they are first needed, one for each group of cores."""

    def __init__(self, groups: Sequence[Cores]):
        self._free: queue.Queue[Cores] = queue.Queue()
        for group in groups:
            self._free.put(group)
        self._workers: dict[Cores, WorkerProcess] = {}
        self._is_stopped = False

    def perform(self, task: Task) -> None:
        cores = self._free.get()
        try:
            self._perform(task, cores)
        finally:
            self._free.put(cores)

    def _perform(self, task: Task, cores: Cores) -> None:
        for attempt in range(1, ATTEMPTS + 1):
            if self._is_stopped:
                return
            if cores not in self._workers:
                self._workers[cores] = WorkerProcess(cores)
            try:
                self._workers[cores].perform(task)
                return
            except UserError as error:
                self._workers.pop(cores).stop()
                if attempt == ATTEMPTS and not self._is_stopped:
                    result = RunResult(
                        run=task.run.id, outcome="failed", seconds=0.0, steps=0, message=str(error)
                    )
                    atomic_write(Path(task.result), to_json(result))

    def stop(self) -> None:
        self._is_stopped = True
        stopping = [threading.Thread(target=worker.stop) for worker in self._workers.values()]
        for thread in stopping:
            thread.start()
        for thread in stopping:
            thread.join()
