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

from convatlas.errors import Said, UserError

LOOK = 0.5  # seconds
HEARD = 5.0  # seconds that a rank which has failed stays, until the others have heard of it
_PACKAGE = Path(__file__).parent.parent.parent


class Shown(NamedTuple):
    """What a rank lets the others see."""

    arrived: int  # how many things, of those that all ranks do in the same order, it has come to
    beats: int  # signs of life of what it does
    looks: int  # and of this thread
    where: str  # in the source


class Watch(threading.Thread):
    """A thread beside the training. `store` is for the training, `own` another connection to it, for this thread alone: one that waits
    for an answer keeps all others waiting. `kept`: by rank 0, else by torchrun; with its keeper the store goes."""

    def __init__(self, rank: int, count: int, store: Store, own: Store, kept: bool, patience: float):
        super().__init__(name="watch", daemon=True)
        self.rank, self.count, self.store, self._own, self._patience = rank, count, store, own, patience
        self._speaks = rank == kept  # where the store has gone and with it all that could be agreed on: rank 1 if rank 0 kept it
        self._arrived = self._beats = self._looks = 0
        self._leaving, self._worker = threading.Event(), threading.get_ident()
        self._still: dict[int, tuple[tuple[int, int], float]] = {}  # since when a rank has shown the same

    def beat(self, arrived: bool) -> None:
        self._beats += 1
        self._arrived += arrived

    def call(self) -> list[int]:
        """Wait for every rank to show itself; returns those that do not within the patience."""
        self._show()
        end = time.monotonic() + self._patience
        while absent := [rank for rank in range(self.count) if not self._own.check([f"rank {rank}"])]:
            if time.monotonic() > end or self._own.check(["failed"]):
                break
            time.sleep(LOOK / 10)
        return absent

    def run(self) -> None:
        while not self._leaving.wait(LOOK):
            try:
                self._look()
            except RuntimeError:
                if self._leaving.is_set():
                    return
                if self._speaks:
                    print(f"convatlas: {self._lost()}", file=sys.stderr, flush=True)
                self._end(1)

    def leave(self) -> None:
        """From here on what the others do is of no concern."""
        self._leaving.set()
        if self.is_alive():
            self.join()

    def cause(self, error: BaseException) -> BaseException:
        """What is to be raised when `error` has ended this rank: itself, once the others have heard; `Said` where another rank failed
        before; or that another has gone, when it is a message that broke off."""
        self.leave()
        try:
            gone = self._gone() if isinstance(error, RuntimeError) else []
            if gone:
                error = UserError(
                    f"rank {gone[0]} has gone, of {self.count}: what was saved is whole; continue with --resume, or let torchrun "
                    f"--max-restarts N do so by itself"
                )
            code = int(getattr(error, "exit_code", 1))
            if not self._claim(code):
                self._own.add("heard", 1)
                return Said(int(self._own.get("code")))
            others = [r for r in range(self.count) if r not in (self.rank, *gone) and self._own.check([f"rank {r}"])]
            end = time.monotonic() + HEARD
            while self._own.add("heard", 0) < len(others) and time.monotonic() < end:
                time.sleep(LOOK / 10)
        except RuntimeError:
            if isinstance(error, RuntimeError):
                return UserError(self._lost()) if self._speaks else Said(1)
        return error

    def _lost(self) -> str:
        return f"{'rank 0' if self.rank else 'torchrun'} has gone, and with it what the {self.count} ranks meet by: continue with --resume"

    def _claim(self, code: int) -> bool:
        """Whether this rank is the first to fail, and thus the one that says so."""
        first = bool(self._own.add("failed", 1) == 1)
        if first:
            self._own.set("code", str(code))
        return first

    def _gone(self) -> list[int]:
        """The ranks that show nothing new for some looks, although none has said that it failed."""
        before = self._seen()
        end = time.monotonic() + 4 * LOOK
        while time.monotonic() < end and not self._own.check(["failed"]):
            self._show()  # this one is there still: others are looking for who has gone, too
            time.sleep(LOOK / 10)
        if self._own.check(["failed"]):
            return []
        return [r for r, (a, b) in enumerate(zip(before, self._seen(), strict=True)) if r != self.rank and a.looks == b.looks]

    def _show(self) -> None:
        self._looks += 1
        self._own.set(f"rank {self.rank}", json.dumps(Shown(self._arrived, self._beats, self._looks, _where(self._worker))))

    def _seen(self) -> list[Shown]:
        return [Shown(*json.loads(text)) for text in self._own.multi_get([f"rank {rank}" for rank in range(self.count)])]

    def _look(self) -> None:
        self._show()
        if self._own.check(["failed"]):
            self._own.add("heard", 1)
            self._end(int(self._own.get("code")))
        now, seen = time.monotonic(), self._seen()
        for rank, shown in enumerate(seen):
            if rank not in self._still or self._still[rank][0] != (shown.arrived, shown.beats):
                self._still[rank] = (shown.arrived, shown.beats), now
        last = min(shown.arrived for shown in seen)
        behind = [rank for rank, shown in enumerate(seen) if shown.arrived == last]
        if len(behind) < self.count and all(now - self._still[rank][1] > self._patience for rank in behind):
            self._give_up(behind, seen)

    def _give_up(self, behind: list[int], seen: list[Shown]) -> None:
        if self._claim(1):
            others = f" (and {len(behind) - 1} more)" if len(behind) > 1 else ""
            print(
                f"convatlas: rank {behind[0]}{others} has not got on for {self._patience:g} s, and the others wait for it: it was last in "
                f"{seen[behind[0]].where}; all ranks end here, continue with --resume (CONVATLAS_PATIENCE sets the time)",
                file=sys.stderr,
                flush=True,
            )
            time.sleep(2 * LOOK)  # until the others have heard, should the store be this process's
        self._end(1)

    def _end(self, code: int) -> None:
        """At once, for the training may be waiting in a message that never comes. What was saved is whole."""
        for child in multiprocessing.active_children():
            child.kill()
        sys.stdout.flush()
        os._exit(code)


def _where(thread: int) -> str:
    """Where in our source a thread is, but for what it tells the other ranks: file and line."""
    frame = sys._current_frames().get(thread)
    while frame is not None:
        file = Path(frame.f_code.co_filename)
        if file.is_relative_to(_PACKAGE) and file.name not in ("ranks.py", "watchdog.py"):
            return f"{file.relative_to(_PACKAGE)}, line {frame.f_lineno}"
        frame = frame.f_back
    return "other code"
