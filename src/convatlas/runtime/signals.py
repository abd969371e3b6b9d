"""Ctrl-C and SIGTERM ask a job to stop: it saves, then ends. A second signal ends it at once; no half-written
file is left behind."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class StoppedBySignal(Exception):
    """The job has saved and stopped after a signal. `exit_code` is the shell's for it: 130 or 143."""

    def __init__(self, number: int, message: str):
        super().__init__(message)
        self.exit_code = 128 + number


class StopRequest:
    """False until a signal arrives; `number` is then the signal's number."""

    number = 0

    def __bool__(self) -> bool:
        return self.number != 0


@contextmanager
def stop_on_signals(wait_for_ranks: bool = False) -> Iterator[StopRequest]:
    """Inside this context, a first SIGINT or SIGTERM sets the request, and a second has its usual effect.

    With `wait_for_ranks` a second one has no effect: torchrun passes on a signal that its whole process group
    has already received, and kills ranks that do not stop.
    """
    request = StopRequest()
    stop_signals = (signal.SIGINT, signal.SIGTERM)

    def handle(number: int, frame: FrameType | None) -> None:
        request.number = number
        if not wait_for_ranks:
            for n in stop_signals:
                signal.signal(n, previous_handlers[n])

    previous_handlers = {n: signal.getsignal(n) for n in stop_signals}
    try:
        for n in stop_signals:
            signal.signal(n, handle)
    except ValueError:  # not in the main thread: the caller handles signals
        pass
    try:
        yield request
    finally:
        for n in stop_signals:
            if signal.getsignal(n) is handle:
                signal.signal(n, previous_handlers[n])


def ignore_stop_signals(worker: int = 0) -> None:
    """Ignore SIGINT and SIGTERM in a loader worker: a signal to the whole process group must not end the
    workers before the last save."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
