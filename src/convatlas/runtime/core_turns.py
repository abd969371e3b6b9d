"""Turns on the cores: processes of ours that share them compute one after the other (gang scheduling).

The threads of an OpenMP loop wait for each other. Where two processes together have more threads than there
are cores, each loop waits for a thread that the other process has displaced, and both reach a small part of
what one reaches alone. So a process computes only while it holds locks on as many cores as it has threads,
and the steps of several processes alternate. The kernel frees the locks of a process that ends, however it
ends.

Turns decide when a step runs, never what it computes.
"""

import fcntl
import os
import stat
import struct
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

# Seconds that a process keeps its cores once it has waited for them: threads that have computed still spin
# for some milliseconds, on the cores of the next process
TURN_SECONDS = 0.2
MAX_WAIT = 30.0  # seconds: a process that holds its cores for longer does not take turns
POLL_SECONDS = 0.0005
SUSPENDED_POLL_SECONDS = 0.1  # between two looks whether the process that is waited for has been suspended
_QUEUE = 0  # the byte of the file whose lock is the place at the head of the queue; core N is byte N + 1
_FLOCK = "hhqqi4x"  # Linux's struct flock, 64 bits


class CoreTurns:
    """The turns of this process, which computes with `threads` threads on some of `cores`.

    Without a folder of the user's own for the locks there are no turns.
    """

    def __init__(self, threads: int, cores: Sequence[int], folder: Path | None = None):
        self._needed = min(threads, len(cores))
        self._cores = sorted(cores)
        self._locked: list[int] = []
        self._announced = False
        self._takes_turns = True
        self._computes = False
        self._end = 0.0  # of the time for which the cores are kept
        self._lock = threading.Lock()
        self._file = _open_locks(folder or _default_folder()) if sys.platform == "linux" else None

    @contextmanager
    def turn(self, say: Callable[[str], None]) -> Iterator[None]:
        """Inside this context this process has its cores. `say` is called once, with the process with which
        they are shared, and when there will be no more turns."""
        if self._file is None or not self._takes_turns or self._computes:  # the last: within a turn
            yield
            return
        with self._lock:
            self._computes = True
            has_cores = bool(self._locked)
        try:
            if not has_cores:
                self._wait_for_cores(say)
            yield
        finally:
            self._computes = False
            self._end_turn()

    def _end_turn(self) -> None:
        """Free the cores, if the time for which they are kept is over."""
        with self._lock:
            if not self._computes and time.monotonic() >= self._end:
                while self._locked:
                    self._unlock(self._locked.pop())

    def _wait_for_cores(self, say: Callable[[str], None]) -> None:
        start = time.monotonic()
        end = start + MAX_WAIT
        if not self._lock_when_free(_QUEUE, end, say):
            return
        cores = [core + 1 for core in self._cores]
        free = [core for core in cores if self._owner(core) == 0]
        for core in sorted(cores, key=lambda core: core not in free)[: self._needed]:
            if not self._lock_when_free(core, end, say):
                break
        self._locked.remove(_QUEUE)
        self._unlock(_QUEUE)
        if time.monotonic() > start + POLL_SECONDS:
            self._end = time.monotonic() + TURN_SECONDS
            timer = threading.Timer(TURN_SECONDS, self._end_turn)  # it may wait for data then
            timer.daemon = True
            timer.start()

    def _lock_when_free(self, byte: int, end: float, say: Callable[[str], None]) -> bool:
        """Whether the lock could be had; not while a suspended process holds it, or one that does not end its
        turn."""
        look = 0.0
        while not self._try_lock(byte):
            owner = self._owner(byte)
            if owner and not self._announced:
                self._announced = True
                say(f"process {owner} computes on the same cores: both take turns")
            now = time.monotonic()
            if now > end:
                self._takes_turns = False
                say(
                    f"process {owner} has not ended its turn for {MAX_WAIT:g} s: this one does not wait again"
                )
                return False
            if now > look:
                look = now + SUSPENDED_POLL_SECONDS
                if _is_suspended(owner):
                    return False
            time.sleep(POLL_SECONDS)
        self._locked.append(byte)
        return True

    def _try_lock(self, byte: int) -> bool:
        assert self._file is not None
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, byte)
        except OSError:
            return False
        return True

    def _unlock(self, byte: int) -> None:
        assert self._file is not None
        fcntl.lockf(self._file, fcntl.LOCK_UN, 1, byte)

    def _owner(self, byte: int) -> int:
        """The process that holds a lock; 0 if none does, or it cannot be known."""
        assert self._file is not None
        request = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0)
        kind, _, _, _, process = struct.unpack(_FLOCK, fcntl.fcntl(self._file, fcntl.F_GETLK, request))
        return 0 if kind == fcntl.F_UNLCK else int(process)


@cache
def core_turns(threads: int, cores: tuple[int, ...]) -> CoreTurns:
    """This process's turns: a lock belongs to the process, whichever part of it computes."""
    return CoreTurns(threads, cores)


def _default_folder() -> Path:
    """A folder of this machine, not of a file system that machines share."""
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    return Path(runtime or tempfile.gettempdir()) / f"convatlas-{os.getuid()}"


def _open_locks(folder: Path) -> int | None:
    """The open file of locks; None where the folder is not this user's alone."""
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        status = os.lstat(folder)
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o022:
            return None
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        return os.open(folder / "cores", flags, 0o600)
    except OSError:
        return None


def _is_suspended(process: int) -> bool:
    try:
        text = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return False
    return text.rpartition(")")[2].split()[0] in ("T", "t")
