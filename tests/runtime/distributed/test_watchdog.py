"""The watchdog with a store in memory: which rank it names, who reports a failure, and with which code ranks
end."""

import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, cast

import pytest
from torch._C._distributed_c10d import Store

from convatlas.errors import FailedOnOtherRank, UsageError, UserError
from convatlas.runtime.distributed import watchdog
from convatlas.runtime.distributed.watchdog import Watchdog
from convatlas.storage.cache import cached

TIMEOUT = 100.0  # seconds of the clock below


class MemoryStore:
    """The methods of torch's Store that the watchdog calls. Once `lost`, every call fails as without its
    process; `lost_when_acknowledged`: that process ends as soon as a failure is acknowledged."""

    lost_when_acknowledged = False

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}
        self.num_sets: Counter[str] = Counter()
        self.lost = False
        self._lock = threading.Lock()

    def _require_connection(self) -> None:
        if self.lost:
            raise RuntimeError("connection reset by peer")

    def set(self, key: str, value: str) -> None:
        self._require_connection()
        self.values[key] = value.encode()
        self.num_sets[key] += 1

    def get(self, key: str) -> bytes:
        self._require_connection()
        return self.values[key]

    def multi_get(self, keys: list[str]) -> list[bytes]:
        self._require_connection()
        return [self.values[key] for key in keys]

    def check(self, keys: list[str]) -> bool:
        self._require_connection()
        return all(key in self.values for key in keys)

    def add(self, key: str, amount: int) -> int:
        self._require_connection()
        with self._lock:
            total = int(self.values.get(key, b"0")) + amount
            self.values[key] = str(total).encode()
        if amount and key == "acknowledged":
            self.lost = self.lost_when_acknowledged
        return total


class Clock:
    """The `time` of the watchdog: its seconds pass when a test sets `now`, and during `sleep`, at `speed`."""

    def __init__(self) -> None:
        self.now = 0.0
        self.speed = 1.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)
        self.now += self.speed * seconds


class RecordingWatchdog(Watchdog):
    """A watchdog that ends its thread in place of the process."""

    exit_code: int | None = None

    def _exit(self, exit_code: int) -> None:
        raise SystemExit(exit_code)

    def run(self) -> None:
        try:
            super().run()
        except SystemExit as error:
            self.exit_code = cast(int, error.code)


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(watchdog, "time", clock)
    monkeypatch.setattr(watchdog, "POLL_SECONDS", 0.01)
    return clock


def make_watchdog(
    rank: int, store: MemoryStore, world_size: int = 2, store_on_rank_0: bool = True
) -> RecordingWatchdog:
    any_store = cast(Store, cast(Any, store))
    return RecordingWatchdog(rank, world_size, any_store, any_store, store_on_rank_0, TIMEOUT)


def join_ranks(store: MemoryStore, world_size: int = 2) -> list[RecordingWatchdog]:
    """The watchdogs of all ranks, which have published a heartbeat and do not run yet."""
    watchdogs = [make_watchdog(rank, store, world_size) for rank in range(world_size)]
    for rank in reversed(range(world_size)):
        watchdogs[rank].publish()
    assert watchdogs[0].wait_for_all() == []
    return watchdogs


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


def wait_for_polls(store: MemoryStore, world_size: int = 2) -> None:
    """Wait until every rank has polled twice, and so has read all that was published before."""
    before = dict(store.num_sets)
    names = [f"rank {rank}" for rank in range(world_size)]
    wait_until(lambda: all(store.num_sets[name] >= before[name] + 2 for name in names))


def test_ranks_that_do_not_join_are_listed_after_the_timeout(store: MemoryStore, clock: Clock) -> None:
    clock.speed = 1e4
    waiting = make_watchdog(1, store, world_size=3)
    assert waiting.wait_for_all() == [0, 2]
    assert clock.now > TIMEOUT


def test_a_rank_without_progress_is_named_with_its_location(
    store: MemoryStore, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    watchdogs: list[RecordingWatchdog] = []
    hanging = threading.Event()
    release = threading.Event()

    def hang() -> int:
        hanging.set()
        return int(release.wait(10))

    def train_on_rank_1() -> None:
        watchdogs.append(make_watchdog(1, store))
        cached("watchdog", "location", [0], int, hang)

    training = threading.Thread(target=train_on_rank_1)
    training.start()
    assert hanging.wait(10)
    watchdogs.insert(0, make_watchdog(0, store))
    watchdogs[0].beat(collective=True)
    for rank in watchdogs:
        rank.publish()
        rank.start()
    wait_for_polls(store)
    clock.now += 0.99 * TIMEOUT
    wait_for_polls(store)
    assert all(rank.is_alive() for rank in watchdogs)
    clock.now += 0.02 * TIMEOUT
    for rank in watchdogs:
        rank.join(10)
    release.set()
    training.join(10)
    assert [rank.exit_code for rank in watchdogs] == [1, 1]
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1, errors
    assert errors.startswith("convatlas: rank 1 has made no progress for 100 s, and the others wait for it")
    assert "it was last in storage/cache.py, line" in errors


def test_a_slow_rank_that_gives_signs_of_life_is_waited_for(store: MemoryStore, clock: Clock) -> None:
    watchdogs = join_ranks(store)
    watchdogs[0].beat(collective=True)
    for rank in watchdogs:
        rank.start()
    for _ in range(3):
        watchdogs[1].beat(collective=False)
        wait_for_polls(store)
        clock.now += 0.9 * TIMEOUT
    wait_for_polls(store)
    for rank in watchdogs:
        rank.stop()
    assert [rank.exit_code for rank in watchdogs] == [None, None]


def test_ranks_that_wait_for_none_of_them_do_not_hang(store: MemoryStore, clock: Clock) -> None:
    """All are at the same place: in a long evaluation, for example."""
    watchdogs = join_ranks(store)
    for rank in watchdogs:
        rank.beat(collective=True)
        rank.start()
    wait_for_polls(store)
    clock.now += 10 * TIMEOUT
    wait_for_polls(store)
    for rank in watchdogs:
        rank.stop()
    assert [rank.exit_code for rank in watchdogs] == [None, None]


def test_a_failure_ends_the_other_ranks_with_its_exit_code(
    store: MemoryStore, capsys: pytest.CaptureFixture[str]
) -> None:
    failing, *others = join_ranks(store, world_size=3)
    for rank in others:
        rank.start()
    error = UsageError("a batch of 49 has no equal shares for 3 ranks")
    assert failing.resolve_failure(error) is error
    for rank in others:
        rank.join(10)
    assert [rank.exit_code for rank in others] == [2, 2]
    assert capsys.readouterr().err == ""  # the error is the failing rank's to print


def test_of_two_failures_the_first_is_reported_and_the_second_is_silent(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watchdog, "ACK_SECONDS", 0.0)
    first, second = join_ranks(store)
    error = UsageError("unknown network")
    assert first.resolve_failure(error) is error
    resolved = second.resolve_failure(UserError("cannot read the data"))
    assert isinstance(resolved, FailedOnOtherRank)
    assert resolved.exit_code == 2


def test_the_second_failure_stays_silent_when_the_first_rank_ends_at_once(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watchdog, "ACK_SECONDS", 0.0)
    first, second = join_ranks(store)
    first.resolve_failure(UsageError("unknown network"))
    store.lost_when_acknowledged = True
    assert isinstance(second.resolve_failure(UsageError("unknown network")), FailedOnOtherRank)


def test_a_rank_that_has_died_is_named(store: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "ACK_SECONDS", 0.0)
    survivor, _ = join_ranks(store)
    resolved = survivor.resolve_failure(RuntimeError("Connection closed by peer"))
    assert isinstance(resolved, UserError)
    assert str(resolved).startswith(
        "rank 1 (of 2) has died: what was saved is complete; run the same command again"
    )


def test_a_broken_communication_between_live_ranks_is_the_error_itself(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watchdog, "POLL_SECONDS", 0.05)
    failing, other = join_ranks(store)
    other.start()
    error = RuntimeError("gloo cannot send")
    assert failing.resolve_failure(error) is error
    other.join(10)
    assert other.exit_code == 1


@pytest.mark.parametrize(
    ("store_on_rank_0", "reporting_rank", "owner"), [(True, 1, "rank 0"), (False, 0, "torchrun")]
)
def test_a_lost_store_is_named_by_one_rank(
    store: MemoryStore,
    store_on_rank_0: bool,
    reporting_rank: int,
    owner: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    message = f"{owner} has died, and the store of the 3 ranks with it: run the same command again"
    watchdogs = [make_watchdog(rank, store, 3, store_on_rank_0) for rank in range(3)]
    store.lost = True
    for rank in watchdogs:
        rank.start()
    for rank in watchdogs:
        rank.join(10)
    assert [rank.exit_code for rank in watchdogs] == [1, 1, 1]
    assert capsys.readouterr().err == f"convatlas: {message}\n"

    resolved = [rank.resolve_failure(RuntimeError("connection reset by peer")) for rank in watchdogs]
    assert [str(error) for error in resolved if type(error) is UserError] == [message]
    assert [type(error) is FailedOnOtherRank for error in resolved].count(True) == 2
    assert str(resolved[reporting_rank]) == message


def test_an_error_of_the_user_is_not_hidden_by_a_lost_store(store: MemoryStore) -> None:
    failing, _ = join_ranks(store)
    store.lost = True
    error = UserError("the loss is not finite at step 7")
    assert failing.resolve_failure(error) is error
