"""What keeps ranks from waiting for ever: each shows the others that it gets on, and all end when one has failed, gone or hangs."""

import json
import multiprocessing
import os
import sys
import threading
import time
from pathlib import Path
from typing import NamedTuple

from torch._C._distributed_c10d import Store

from convatlas.errors import FailedOnOtherRank, UserError

POLL_SECONDS = 0.5  # seconds
ACK_SECONDS = 5.0  # seconds that a rank which has failed stays, until the others have heard of it
_PACKAGE = Path(__file__).parent.parent.parent


class Heartbeat(NamedTuple):
    """What a rank lets the others see."""

    collectives: int  # how many things, of those that all ranks do in the same order, it has come to
    beats: int  # signs of life of what it does
    polls: int  # and of this thread
    location: str  # in the source


class Watchdog(threading.Thread):
    """A thread beside the training. `store` is for the training, `own` another connection to it, for this thread alone: one that waits
    for an answer keeps all others waiting. `kept`: by rank 0, else by torchrun; with its keeper the store goes."""

    def __init__(self, rank: int, world_size: int, store: Store, own_store: Store, store_rank: bool, timeout: float):
        super().__init__(name="watch", daemon=True)
        self.rank, self.world_size, self.store, self._store, self._timeout = rank, world_size, store, own_store, timeout
        self._reports = rank == store_rank  # where the store has gone and with it all that could be agreed on: rank 1 if rank 0 kept it
        self._collectives = self._beats = self._polls = 0
        self._stopping, self._worker = threading.Event(), threading.get_ident()
        self._unchanged_since: dict[int, tuple[tuple[int, int], float]] = {}  # since when a rank has shown the same

    def beat(self, collective: bool) -> None:
        self._beats += 1
        self._collectives += collective

    def wait_for_all(self) -> list[int]:
        """Wait for every rank to show itself; returns those that do not within the patience."""
        self._publish()
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
                if self._reports:
                    print(f"convatlas: {self._store_lost()}", file=sys.stderr, flush=True)
                self._exit(1)

    def stop(self) -> None:
        """From here on what the others do is of no concern."""
        self._stopping.set()
        if self.is_alive():
            self.join()

    def resolve_failure(self, error: BaseException) -> BaseException:
        """What is to be raised when `error` has ended this rank: itself, once the others have heard; `Said` where another rank failed
        before; or that another has gone, when it is a message that broke off."""
        self.stop()
        try:
            gone = self._dead_ranks() if isinstance(error, RuntimeError) else []
            if gone:
                error = UserError(
                    f"rank {gone[0]} has gone, of {self.world_size}: what was saved is whole; continue with --resume, or let torchrun "
                    f"--max-restarts N do so by itself"
                )
            code = int(getattr(error, "exit_code", 1))
            if not self._claim_failure(code):
                self._store.add("heard", 1)
                return FailedOnOtherRank(int(self._store.get("code")))
            others = [r for r in range(self.world_size) if r not in (self.rank, *gone) and self._store.check([f"rank {r}"])]
            end = time.monotonic() + ACK_SECONDS
            while self._store.add("heard", 0) < len(others) and time.monotonic() < end:
                time.sleep(POLL_SECONDS / 10)
        except RuntimeError:
            if isinstance(error, RuntimeError):
                return UserError(self._store_lost()) if self._reports else FailedOnOtherRank(1)
        return error

    def _store_lost(self) -> str:
        return f"{'rank 0' if self.rank else 'torchrun'} has gone, and with it what the {self.world_size} ranks meet by: continue with --resume"

    def _claim_failure(self, code: int) -> bool:
        """Whether this rank is the first to fail, and thus the one that says so."""
        first = bool(self._store.add("failed", 1) == 1)
        if first:
            self._store.set("code", str(code))
        return first

    def _dead_ranks(self) -> list[int]:
        """The ranks that show nothing new for some looks, although none has said that it failed."""
        before = self._heartbeats()
        end = time.monotonic() + 4 * POLL_SECONDS
        while time.monotonic() < end and not self._store.check(["failed"]):
            self._publish()  # this one is there still: others are looking for who has gone, too
            time.sleep(POLL_SECONDS / 10)
        if self._store.check(["failed"]):
            return []
        return [r for r, (a, b) in enumerate(zip(before, self._heartbeats(), strict=True)) if r != self.rank and a.polls == b.polls]

    def _publish(self) -> None:
        self._polls += 1
        self._store.set(
            f"rank {self.rank}", json.dumps(Heartbeat(self._collectives, self._beats, self._polls, _current_location(self._worker)))
        )

    def _heartbeats(self) -> list[Heartbeat]:
        return [Heartbeat(*json.loads(text)) for text in self._store.multi_get([f"rank {rank}" for rank in range(self.world_size)])]

    def _poll(self) -> None:
        self._publish()
        if self._store.check(["failed"]):
            self._store.add("heard", 1)
            self._exit(int(self._store.get("code")))
        now, seen = time.monotonic(), self._heartbeats()
        for rank, shown in enumerate(seen):
            if rank not in self._unchanged_since or self._unchanged_since[rank][0] != (shown.collectives, shown.beats):
                self._unchanged_since[rank] = (shown.collectives, shown.beats), now
        last = min(shown.collectives for shown in seen)
        behind = [rank for rank, shown in enumerate(seen) if shown.collectives == last]
        if len(behind) < self.world_size and all(now - self._unchanged_since[rank][1] > self._timeout for rank in behind):
            self._report_hang(behind, seen)

    def _report_hang(self, behind: list[int], seen: list[Heartbeat]) -> None:
        if self._claim_failure(1):
            others = f" (and {len(behind) - 1} more)" if len(behind) > 1 else ""
            print(
                f"convatlas: rank {behind[0]}{others} has not got on for {self._timeout:g} s, and the others wait for it: it was last in "
                f"{seen[behind[0]].location}; all ranks end here, continue with --resume (CONVATLAS_PATIENCE sets the time)",
                file=sys.stderr,
                flush=True,
            )
            time.sleep(2 * POLL_SECONDS)  # until the others have heard, should the store be this process's
        self._exit(1)

    def _exit(self, code: int) -> None:
        """At once, for the training may be waiting in a message that never comes. What was saved is whole."""
        for child in multiprocessing.active_children():
            child.kill()
        sys.stdout.flush()
        os._exit(code)


def _current_location(thread: int) -> str:
    """Where in our source a thread is, but for what it tells the other ranks: file and line."""
    frame = sys._current_frames().get(thread)
    while frame is not None:
        file = Path(frame.f_code.co_filename)
        if file.is_relative_to(_PACKAGE) and file.name not in ("ranks.py", "watchdog.py"):
            return f"{file.relative_to(_PACKAGE)}, line {frame.f_lineno}"
        frame = frame.f_back
    return "other code"
