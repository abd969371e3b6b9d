"""Ctrl-C and SIGTERM are answered in every wait, and no code between them tolerates the stop."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

from convatlas.runtime.signals import (
    StoppedBySignal,
    StopRequest,
    explain_stop,
    postpone_signals,
    raise_on_signals,
    stop_on_signals,
)


@pytest.fixture(autouse=True)
def _as_in_a_command() -> Iterator[None]:
    with raise_on_signals():
        yield


def send_soon(number: int = signal.SIGTERM, seconds: float = 0.1) -> None:
    threading.Timer(seconds, os.kill, (os.getpid(), number)).start()


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_any_wait_of_a_command(number: int, exit_code: int) -> None:
    start = time.monotonic()
    send_soon(number)
    with pytest.raises(StoppedBySignal) as stopped:
        threading.Event().wait(30)
    assert stopped.value.exit_code == exit_code
    assert time.monotonic() - start < 5


def test_code_that_tolerates_every_exception_does_not_tolerate_a_stop() -> None:
    def tolerate() -> None:
        with suppress(Exception):
            time.sleep(30)

    send_soon()
    with pytest.raises(StoppedBySignal):
        tolerate()


def test_a_signal_that_comes_in_a_destructor_stops_all_the_same() -> None:
    class Destroyed:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGTERM)  # what its handler raises here, Python drops

    def work() -> None:
        Destroyed()
        threading.Event().wait(30)

    start = time.monotonic()
    with pytest.raises(StoppedBySignal):
        work()
    assert time.monotonic() - start < 5


def test_inside_a_step_a_signal_is_noted_and_the_next_wait_ends_at_once() -> None:
    request = StopRequest()
    steps = []

    def train() -> None:
        with stop_on_signals(request):
            for step in request.interrupting(iter(range(5))):
                if step == 2:
                    signal.raise_signal(signal.SIGTERM)
                steps.append(step)

    with pytest.raises(StoppedBySignal):
        train()
    assert request.number == signal.SIGTERM
    assert steps == [0, 1, 2]


def test_a_wait_between_steps_is_interrupted() -> None:
    request = StopRequest()
    send_soon()
    with pytest.raises(StoppedBySignal), stop_on_signals(request), request.interrupts():
        time.sleep(30)


def test_a_signal_that_nothing_has_answered_is_not_swallowed() -> None:
    with pytest.raises(StoppedBySignal), stop_on_signals(StopRequest()):
        signal.raise_signal(signal.SIGINT)


def test_several_ranks_note_a_signal_and_agree_on_it_later() -> None:
    request = StopRequest(wait_for_ranks=True)
    noted = []

    def train() -> None:
        with stop_on_signals(request):
            for _ in range(2):  # torchrun passes on what the process group has received already
                with request.interrupts():
                    signal.raise_signal(signal.SIGTERM)
                noted.append(request.number)

    with pytest.raises(StoppedBySignal):
        train()
    assert noted == [signal.SIGTERM] * 2


def test_a_postponed_signal_is_raised_at_the_end() -> None:
    reached = []

    def start_workers() -> None:
        with postpone_signals():
            signal.raise_signal(signal.SIGTERM)
            reached.append(True)

    with pytest.raises(StoppedBySignal):
        start_workers()
    assert reached


def test_a_stop_says_what_is_saved() -> None:
    with (
        pytest.raises(StoppedBySignal, match="the last step is saved") as stopped,
        explain_stop("the last step is saved"),
    ):
        signal.raise_signal(signal.SIGTERM)
    assert stopped.value.exit_code == 143
