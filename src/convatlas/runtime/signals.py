"""Ctrl-C and SIGTERM ask a job to stop: it saves, then ends. A second signal ends it at once; no half-written
file is left behind."""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TypeVar

T = TypeVar("T")
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
AGAIN_SECONDS = 0.01  # after a destructor


class StoppedBySignal(BaseException):
    """A signal has stopped the job. `exit_code` is the shell's for it: 130 or 143.

    Not an Exception, so that no code that tolerates a failure tolerates this one. `agreed`: all ranks raise
    it, at the same point.
    """

    def __init__(self, number: int, message: str, agreed: bool = False):
        super().__init__(message)
        self.number = number
        self.exit_code = 128 + number
        self.agreed = agreed


class _Postponement:
    depth = 0  # of contexts inside which no signal raises
    number = 0  # of the signal that has come in there

    def stop(self, number: int) -> None:
        if not self.depth:
            raise StoppedBySignal(number, _message(number))
        self.number = number


_postponement = _Postponement()


@contextmanager
def postpone_signals() -> Iterator[None]:
    """Inside this context a signal does not raise, but at its end: for code of others that cannot be stopped
    in between."""
    _postponement.depth += 1
    try:
        yield
    finally:
        _postponement.depth -= 1
    if _postponement.number and not _postponement.depth:
        number, _postponement.number = _postponement.number, 0
        _postponement.stop(number)


class StopRequest:
    """False until a signal arrives; `number` is then the signal's number.

    The signal is noted, and raised as StoppedBySignal in `interrupts` alone, unless `wait_for_ranks`: several
    ranks have to agree on where they stop.
    """

    def __init__(self, wait_for_ranks: bool = False) -> None:
        self.number = 0
        self.wait_for_ranks = wait_for_ranks
        self._raises = False

    def __bool__(self) -> bool:
        return self.number != 0

    @contextmanager
    def interrupts(self) -> Iterator[None]:
        """A wait that a signal ends at once, also one that has come before it."""
        self._raises = not self.wait_for_ranks
        try:
            self._check()
            yield
        finally:
            self._raises = False

    def interrupting(self, items: Iterable[T]) -> Iterator[T]:
        """The items; waiting for each can be interrupted."""
        iterator = iter(items)
        while True:
            with self.interrupts():
                try:
                    item = next(iterator)
                except StopIteration:
                    return
            yield item

    def receive(self, number: int) -> None:
        self.number = number
        self._check()

    def _check(self) -> None:
        if self._raises and self.number:
            _postponement.stop(self.number)


@contextmanager
def stop_on_signals(request: StopRequest) -> Iterator[None]:
    """Inside this context, a first SIGINT or SIGTERM sets the request, and a second has its usual effect.
    Raises StoppedBySignal at the end for a signal that nothing in the context has answered.

    Where the request waits for ranks a second one has no effect: torchrun passes on a signal that its whole
    process group has already received, and kills ranks that do not stop.
    """

    def handle(number: int, frame: FrameType | None) -> None:
        if not request.wait_for_ranks:
            for n in STOP_SIGNALS:
                signal.signal(n, previous_handlers[n])
        request.receive(number)

    previous_handlers = {n: signal.getsignal(n) for n in STOP_SIGNALS}
    try:
        for n in STOP_SIGNALS:
            signal.signal(n, handle)
    except ValueError:  # not in the main thread: the caller handles signals
        pass
    try:
        yield
    finally:
        for n in STOP_SIGNALS:
            if signal.getsignal(n) is handle:
                signal.signal(n, previous_handlers[n])
    if request:
        raise StoppedBySignal(request.number, _message(request.number))


@contextmanager
def raise_on_signals(several_ranks: bool = False) -> Iterator[None]:
    """Inside this context, a first SIGINT or SIGTERM raises StoppedBySignal in the main thread, wherever it
    is; a second ends the process. Of several ranks, each ignores a second one: see `stop_on_signals`.

    Python drops what is raised in a destructor or a weak reference's callback: such a signal comes again.
    """

    def handle(number: int, frame: FrameType | None) -> None:
        for n in STOP_SIGNALS:
            signal.signal(n, signal.SIG_IGN if several_ranks else signal.SIG_DFL)
        _postponement.stop(number)

    def send_dropped_again(dropped: "sys.UnraisableHookArgs") -> None:
        if not isinstance(dropped.exc_value, StoppedBySignal):
            previous_hook(dropped)
            return
        for n in ours:
            signal.signal(n, handle)
        arguments = (os.getpid(), dropped.exc_value.number)
        threading.Timer(AGAIN_SECONDS, os.kill, arguments).start()

    previous_handlers = {n: signal.getsignal(n) for n in STOP_SIGNALS}
    ours = [
        n
        for n in STOP_SIGNALS
        if threading.current_thread() is threading.main_thread()
        and previous_handlers[n] is not signal.SIG_IGN
    ]
    previous_hook = sys.unraisablehook
    for n in ours:
        signal.signal(n, handle)
    if ours:
        sys.unraisablehook = send_dropped_again
    try:
        yield
    finally:
        if ours:
            sys.unraisablehook = previous_hook
        for n in ours:
            signal.signal(n, previous_handlers[n])


@contextmanager
def explain_stop(message: str) -> Iterator[None]:
    """Give a stop inside this context a message that says what is saved, and how to continue."""
    try:
        yield
    except StoppedBySignal as stopped:
        raise StoppedBySignal(stopped.number, message, stopped.agreed) from None
    except KeyboardInterrupt:
        raise StoppedBySignal(signal.SIGINT, message) from None


def _message(number: int) -> str:
    return "interrupted" if number == signal.SIGINT else "stopped by SIGTERM"


def ignore_stop_signals() -> None:
    """Ignore SIGINT and SIGTERM in a worker process: a signal to the whole process group must not end the
    workers before the last save."""
    for n in STOP_SIGNALS:
        signal.signal(n, signal.SIG_IGN)


def end_with_parent() -> None:
    """End this worker process as soon as the process that started it has ended, however that ended."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        with suppress(OSError):
            parent.join()
        os._exit(1)

    threading.Thread(target=wait, name="end with parent", daemon=True).start()
