"""Processes that share cores compute in turns, and none waits for one that does not end its turn."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from convatlas.runtime import core_turns
from convatlas.runtime.core_turns import CoreTurns

CHILD = """
import sys
from pathlib import Path
from convatlas.runtime.core_turns import CoreTurns

threads, folder = int(sys.argv[1]), Path(sys.argv[2])
with CoreTurns(threads, eval(sys.argv[3]), folder).turn(lambda line: None):
    print("computes", flush=True)
    sys.stdin.readline()
print("done", flush=True)
sys.stdin.readline()
"""
Process = subprocess.Popen[str]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Process]]:
    """Starts a process with some threads on some cores, in its turn."""
    processes: list[Process] = []

    def start(threads: int, cores: tuple[int, ...] = (0, 1)) -> Process:
        arguments = [sys.executable, "-c", CHILD, str(threads), str(tmp_path), str(cores)]
        process = subprocess.Popen(
            arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=dict(os.environ)
        )
        processes.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "computes\n"
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def seconds_to_a_turn(turns: CoreTurns) -> float:
    start = time.monotonic()
    with turns.turn(lambda line: None):
        return time.monotonic() - start


def end_turn_after(process: Process, seconds: float) -> None:
    def end_turn() -> None:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()

    threading.Timer(seconds, end_turn).start()


def test_a_process_waits_for_the_turn_of_another_and_names_it(
    start: Callable[..., Process], tmp_path: Path
) -> None:
    other = start(2)
    end_turn_after(other, 0.6)
    lines: list[str] = []
    turns = CoreTurns(2, [0, 1], tmp_path)
    began = time.monotonic()
    with turns.turn(lines.append):
        assert time.monotonic() - began > 0.4
    with turns.turn(lines.append):
        pass
    assert lines == [f"process {other.pid} computes on the same cores: both take turns"]


@pytest.mark.parametrize(
    ("threads", "cores"), [(1, (0, 1)), (2, (2, 3))], ids=["a core for each", "other cores"]
)
def test_processes_that_share_no_core_do_not_wait(
    start: Callable[..., Process], tmp_path: Path, threads: int, cores: tuple[int, ...]
) -> None:
    start(1)
    assert seconds_to_a_turn(CoreTurns(threads, cores, tmp_path)) < 0.3


def test_two_threads_wait_for_the_second_core(start: Callable[..., Process], tmp_path: Path) -> None:
    end_turn_after(start(1), 0.6)
    assert seconds_to_a_turn(CoreTurns(2, [0, 1], tmp_path)) > 0.4


def test_a_killed_process_frees_its_cores(start: Callable[..., Process], tmp_path: Path) -> None:
    other = start(2)
    os.kill(other.pid, signal.SIGKILL)
    other.wait()
    assert seconds_to_a_turn(CoreTurns(2, [0, 1], tmp_path)) < 0.3


def test_a_suspended_process_is_not_waited_for(start: Callable[..., Process], tmp_path: Path) -> None:
    os.kill(start(2).pid, signal.SIGSTOP)
    turns = CoreTurns(2, [0, 1], tmp_path)
    assert [seconds_to_a_turn(turns) < 1 for _ in range(3)] == [True] * 3


def test_a_process_that_does_not_end_its_turn_is_waited_for_once(
    start: Callable[..., Process], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(core_turns, "MAX_WAIT", 0.2)
    other = start(2)
    turns = CoreTurns(2, [0, 1], tmp_path)
    lines: list[str] = []
    with turns.turn(lines.append):
        pass
    message = f"process {other.pid} has not ended its turn for 0.2 s: this one does not wait again"
    assert lines[1:] == [message]
    assert seconds_to_a_turn(turns) < 0.15


@pytest.mark.parametrize("kind", ["missing", "a file", "open to others", "a link"])
def test_without_a_folder_of_its_own_a_process_does_not_wait(
    start: Callable[..., Process], tmp_path: Path, kind: str
) -> None:
    start(2)
    folder = tmp_path / "folder"
    if kind == "missing":
        folder = folder / "missing"
    elif kind == "a file":
        folder.touch()
    elif kind == "open to others":
        folder.mkdir()
        folder.chmod(0o777)
    else:
        folder.symlink_to(tmp_path)
    assert seconds_to_a_turn(CoreTurns(2, [0, 1], folder)) < 0.3


def test_cores_that_were_waited_for_are_kept_for_a_moment(
    start: Callable[..., Process], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(core_turns, "TURN_SECONDS", 1.0)
    end_turn_after(start(2), 0.1)
    turns = CoreTurns(2, [0, 1], tmp_path)
    assert seconds_to_a_turn(turns) > 0.05
    began = time.monotonic()
    end_turn_after(start(2), 0.5)
    assert 0.5 < time.monotonic() - began < 5
    assert seconds_to_a_turn(turns) > 0.1  # the time is over, although nothing was computed since


def test_a_turn_ends_with_an_error(start: Callable[..., Process], tmp_path: Path) -> None:
    turns = CoreTurns(2, [0, 1], tmp_path)
    with pytest.raises(KeyboardInterrupt), turns.turn(lambda line: None):
        raise KeyboardInterrupt
    start(2)


def test_a_wait_that_is_interrupted_leaves_no_lock(start: Callable[..., Process], tmp_path: Path) -> None:
    other = start(1)
    turns = CoreTurns(2, [0, 1], tmp_path)

    def interrupt(line: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), turns.turn(interrupt):
        pass
    other.kill()
    start(2)
