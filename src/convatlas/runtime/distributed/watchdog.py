"""The watchdog that keeps ranks from waiting for ever: each rank shows the others that it makes progress, and
all end when one of them has failed, died or hangs."""

import json
import multiprocessing
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import NamedTuple

from torch._C._distributed_c10d import Store

from convatlas.errors import FailedOnOtherRank, UserError
from convatlas.runtime.signals import STOP_SIGNALS

POLL_SECONDS = 0.5  # between two looks at the store
ACK_SECONDS = 5.0  # how long a failed rank stays, until the others have acknowledged its failure
SAVE_SECONDS = 3.0  # how long a rank may save, when a signal has stopped another one
_PACKAGE = Path(__file__).parent.parent.parent


class Heartbeat(NamedTuple):
    """The state that a rank publishes to the others."""

    collectives: int  # how many collectives (which all ranks call in the same order) it has reached
    beats: int  # signs of life from its training
    polls: int  # signs of life from its watchdog
    location: str  # where its training is in the source: file and line


class Watchdog(threading.Thread):
    """A thread beside the training, which publishes this rank's heartbeat and reads those of the other ranks.

    `store` is for the training. `own_store` is another connection to it for this thread alone, because a
    request that waits keeps all others of its connection waiting. `store_on_rank_0`: the store lives in rank
    0's process, else in torchrun's; it is lost when that process ends. `timeout`: the seconds without
    progress after which a rank hangs.
    """

    def __init__(
        self,
        rank: int,
        world_size: int,
        store: Store,
        own_store: Store,
        store_on_rank_0: bool,
        timeout: float,
    ):
        super().__init__(name="watchdog", daemon=True)
        self.rank = rank
        self.world_size = world_size
        self.store = store
        self._store = own_store
        self._timeout = timeout
        # Without the store the ranks cannot agree on who reports its loss: a fixed rank that lives does.
        self._reports_lost_store = rank == (1 if store_on_rank_0 else 0)
        self._collectives = 0
        self._beats = 0
        self._polls = 0
        self._stopping = threading.Event()
        self._training_thread = threading.get_ident()
        # by rank: (collectives, beats) and the time at which this rank first read them
        self._last_progress: dict[int, tuple[tuple[int, int], float]] = {}

    def beat(self, collective: bool) -> None:
        """Count a sign of life of the training; `collective`: it has reached something that all ranks do."""
        self._beats += 1
        self._collectives += collective

    def wait_for_all(self) -> list[int]:
        """Wait until every rank has published a heartbeat; returns those that have not within the timeout."""
        self.publish()
        end = time.monotonic() + self._timeout
        while absent := [rank for rank in range(self.world_size) if not self._store.check([f"rank {rank}"])]:
            if time.monotonic() > end or self._store.check(["failed"]):
                break
            time.sleep(POLL_SECONDS / 10)
        return absent

    def run(self) -> None:
        while not self._stopping.wait(POLL_SECONDS):
            try:
                self._poll()
            except RuntimeError:
                if self._stopping.is_set():
                    return
                if self._reports_lost_store:
                    print(f"convatlas: {self._lost_store_message()}", file=sys.stderr, flush=True)
                self._exit(1)

    def stop(self) -> None:
        """Stop watching: the other ranks may end from now on."""
        self._stopping.set()
        if self.is_alive():
            self.join()

    def resolve_failure(self, error: BaseException) -> BaseException:
        """The error to raise after `error` has ended this rank: itself, once the other ranks have
        acknowledged it; FailedOnOtherRank when another rank failed before; or a UserError that names the rank
        that has died, when `error` is a communication that broke off."""
        self.stop()
        try:
            dead_ranks = self._dead_ranks() if isinstance(error, RuntimeError) else []
            if dead_ranks:
                error = UserError(
                    f"rank {dead_ranks[0]} (of {self.world_size}) has died: what was saved is complete; "
                    f"run the same command again, or let torchrun --max-restarts N do so by itself"
                )
            exit_code = int(getattr(error, "exit_code", 1))
            if not self._claim_failure(exit_code):
                first_error = FailedOnOtherRank(int(self._store.get("exit code")))
                self._store.add("acknowledged", 1)  # the last request: the store may end with the first rank
                return first_error
            others = set(range(self.world_size)) - {self.rank, *dead_ranks}
            present = [rank for rank in others if self._store.check([f"rank {rank}"])]
            end = time.monotonic() + ACK_SECONDS
            while self._store.add("acknowledged", 0) < len(present) and time.monotonic() < end:
                time.sleep(POLL_SECONDS / 10)
        except RuntimeError:
            if isinstance(error, RuntimeError):
                if self._reports_lost_store:
                    return UserError(self._lost_store_message())
                return FailedOnOtherRank(1)
        return error

    def _lost_store_message(self) -> str:
        owner = "rank 0" if self.rank else "torchrun"
        store = f"the store of the {self.world_size} ranks"
        return f"{owner} has died, and {store} with it: run the same command again"

    def _claim_failure(self, exit_code: int) -> bool:
        """Whether this rank is the first to fail, and so the one that reports it."""
        first = bool(self._store.add("failed", 1) == 1)
        if first:
            self._store.set("exit code", str(exit_code))
        return first

    def _dead_ranks(self) -> list[int]:
        """The ranks whose watchdog publishes nothing new for some polls, while no rank reports a failure."""
        before = self._heartbeats()
        end = time.monotonic() + 4 * POLL_SECONDS
        while time.monotonic() < end and not self._store.check(["failed"]):
            self.publish()  # this rank lives: others may be looking for dead ranks, too
            time.sleep(POLL_SECONDS / 10)
        if self._store.check(["failed"]):
            return []
        after = self._heartbeats()
        return [r for r in range(self.world_size) if r != self.rank and before[r].polls == after[r].polls]

    def publish(self) -> None:
        """Publish this rank's heartbeat in the store."""
        self._polls += 1
        location = _current_location(self._training_thread)
        heartbeat = Heartbeat(self._collectives, self._beats, self._polls, location)
        self._store.set(f"rank {self.rank}", json.dumps(heartbeat))

    def _heartbeats(self) -> list[Heartbeat]:
        texts = self._store.multi_get([f"rank {rank}" for rank in range(self.world_size)])
        return [Heartbeat(*json.loads(text)) for text in texts]

    def _poll(self) -> None:
        self.publish()
        if self._store.check(["failed"]):
            exit_code = int(self._store.get("exit code"))
            if self._stop_training(exit_code - 128):
                return
            self._store.add("acknowledged", 1)
            self._exit(exit_code)
        now = time.monotonic()
        heartbeats = self._heartbeats()
        for rank, heartbeat in enumerate(heartbeats):
            progress = (heartbeat.collectives, heartbeat.beats)
            if rank not in self._last_progress or self._last_progress[rank][0] != progress:
                self._last_progress[rank] = progress, now
        fewest = min(heartbeat.collectives for heartbeat in heartbeats)
        behind = [rank for rank, heartbeat in enumerate(heartbeats) if heartbeat.collectives == fewest]
        waited_for = len(behind) < self.world_size
        if waited_for and all(now - self._last_progress[rank][1] > self._timeout for rank in behind):
            self._report_hang(behind, heartbeats)

    def _stop_training(self, number: int) -> bool:
        """Pass on the signal that has stopped another rank, which torchrun may not have sent to this one yet.
        Returns whether this rank stops by itself, within the time that saving may take."""
        if number not in STOP_SIGNALS or signal.getsignal(number) == signal.SIG_DFL:
            return False
        os.kill(os.getpid(), number)
        return self._stopping.wait(SAVE_SECONDS)

    def _report_hang(self, behind: list[int], heartbeats: list[Heartbeat]) -> None:
        if self._claim_failure(1):
            first = behind[0]
            others = f" (and {len(behind) - 1} more)" if len(behind) > 1 else ""
            print(
                f"convatlas: rank {first}{others} has made no progress for {self._timeout:g} s, and the "
                f"others wait for it: it was last in {heartbeats[first].location}; all ranks end now, "
                f"run the same command again (CONVATLAS_TIMEOUT sets the time)",
                file=sys.stderr,
                flush=True,
            )
            time.sleep(2 * POLL_SECONDS)  # until the others have read it: the store may be in this process
        self._exit(1)

    def _exit(self, exit_code: int) -> None:
        """End this process at once: the training may wait for a message that never comes, and files that are
        saved are complete."""
        for child in multiprocessing.active_children():
            child.kill()
        sys.stdout.flush()
        os._exit(exit_code)


def _current_location(thread: int) -> str:
    """The file and line of this package that a thread is in, except the files by which ranks communicate."""
    frame = sys._current_frames().get(thread)
    while frame is not None:
        file = Path(frame.f_code.co_filename)
        if file.is_relative_to(_PACKAGE) and file.name not in ("ranks.py", "watchdog.py"):
            return f"{file.relative_to(_PACKAGE)}, line {frame.f_lineno}"
        frame = frame.f_back
    return "other code"
