"""Ctrl-C and SIGTERM ask a job to stop; it saves, then goes. A second signal ends it at once: nothing half written is left behind."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class StoppedBySignal(Exception):
    """The job was asked to stop and has saved. `exit_code` is the shell's convention for the signal: 130 or 143."""

    def __init__(self, number: int, message: str):
        super().__init__(message)
        self.exit_code = 128 + number


class StopRequest:
    """False until a signal has come; `number` then says which."""

    number = 0

    def __bool__(self) -> bool:
        return self.number != 0


@contextmanager
def stop_on_signals(wait_for_ranks: bool = False) -> Iterator[StopRequest]:
    """While inside, the first SIGINT or SIGTERM is noted and a second one has its usual effect.

    `patient`: it has none, for torchrun passes on a signal that its whole group got, and ends by force what does not stop.
    """
    request, numbers = StopRequest(), (signal.SIGINT, signal.SIGTERM)

    def note(number: int, frame: FrameType | None) -> None:
        request.number = number
        for n in () if wait_for_ranks else numbers:
            signal.signal(n, previous[n])

    previous = {n: signal.getsignal(n) for n in numbers}
    try:
        for n in numbers:
            signal.signal(n, note)
    except ValueError:  # not in the main thread: signals are the caller's affair
        pass
    try:
        yield request
    finally:
        for n in numbers:
            if signal.getsignal(n) is note:
                signal.signal(n, previous[n])


def ignore_stop_signals(worker: int = 0) -> None:
    """For loader workers: a signal to the whole group must not take the data away before the last save."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
