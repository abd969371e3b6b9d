"""A sample of the hostile files (make fuzz reads all 10,000), and tests that each kind of failure is
detected."""

import mmap
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import fuzz_campaign
from helpers.hostile_files import CASES, Case, make_case

from convatlas.errors import UserError

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is read from /proc")

SLOW_CASES = {4290}  # an image of the most pixels that are read: 3 s


@pytest.fixture(scope="module")
def outcomes() -> list[fuzz_campaign.Outcome]:
    numbers = [number for number in range(0, CASES, 33) if number not in SLOW_CASES]
    return list(fuzz_campaign.run_cases(numbers))


def test_a_hostile_file_is_read_or_refused_in_one_sentence(outcomes: list[fuzz_campaign.Outcome]) -> None:
    assert [outcome for outcome in outcomes if not outcome.passed] == []
    assert len(outcomes) == 303


def test_the_cases_reach_all_readers_and_get_past_the_first_check(
    outcomes: list[fuzz_campaign.Outcome],
) -> None:
    for reader in ("model", "weights", "image"):
        results = [outcome.result for outcome in outcomes if outcome.reader == reader]
        assert "read" in results
        reasons = {re.sub(r"\d+", "", result.partition("/file")[2]) for result in results}
        assert len(reasons) > 10
    refused = [o.result for o in outcomes if o.reader == "model" and o.result != "read"]
    assert sum("checksum" in result or "SHA-256" in result for result in refused) < len(refused) / 2


def test_a_number_gives_the_same_bytes_in_any_order() -> None:
    numbers = (5, 77, 1234, 9_999)
    cases = [make_case(number) for number in numbers]
    assert cases == [make_case(number) for number in reversed(numbers)][::-1]


def take_memory(case: Case, file: Path) -> None:
    # a mapping has new pages, where an allocation may reuse pages of this process
    pages = mmap.mmap(-1, fuzz_campaign.MAX_MEMORY + (16 << 20))
    pages[:: 1 << 12] = bytes(len(pages) >> 12)  # a byte of each


def request_too_much_memory(case: Case, file: Path) -> None:
    try:
        bytearray(1 << 45)
    except MemoryError:
        raise UserError("hidden") from None


def hang(case: Case, file: Path) -> None:
    while True:
        pass


def raise_another_error(case: Case, file: Path) -> None:
    raise KeyError("x")


def raise_two_lines(case: Case, file: Path) -> None:
    raise UserError("two\nlines")


def exit_process(case: Case, file: Path) -> None:
    os._exit(3)


def abort(case: Case, file: Path) -> None:
    os.abort()


@pytest.mark.parametrize(
    ("fail", "result"),
    [
        (take_memory, "takes 1"),
        (request_too_much_memory, "asks for too much memory"),
        (hang, "hangs"),
        (raise_another_error, "raises KeyError"),
        (raise_two_lines, "says too much"),
        (exit_process, "ends the process"),
        (abort, "crashes: SIGABRT"),
    ],
)
def test_each_kind_of_failure_is_detected_and_recorded_for_its_case(
    fail: Callable[[Case, Path], None], result: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fuzz_campaign, "MAX_SECONDS", 0.5)
    monkeypatch.setattr(fuzz_campaign, "MAX_MEMORY", 100 << 20)
    failing_case = make_case(8)
    read = fuzz_campaign.read

    def fail_on_one_case(case: Case, file: Path) -> None:
        (fail if case.data == failing_case.data else read)(case, file)

    monkeypatch.setattr(fuzz_campaign, "read", fail_on_one_case)
    outcomes = list(fuzz_campaign.run_cases([7, 8, 9]))
    assert [outcome.number for outcome in outcomes] == [7, 8, 9]
    assert [outcome.passed for outcome in outcomes] == [True, False, True]
    assert outcomes[1].result.startswith(result)
