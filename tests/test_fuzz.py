"""A sample of the hostile files (make fuzz reads all 10,000), and whether the reading would notice what it looks for."""

import mmap
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import fuzz_campaign as fuzz
from helpers.hostile_files import CASES, Case, case

from convatlas.errors import UserError

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is read off /proc")

HEAVY = {4290}  # a picture of the most pixels that are read: 3 s


@pytest.fixture(scope="module")
def sample() -> list[fuzz.Outcome]:
    return list(fuzz.run([number for number in range(0, CASES, 33) if number not in HEAVY]))


def test_a_hostile_file_is_read_or_refused_in_a_sentence(sample: list[fuzz.Outcome]) -> None:
    assert [outcome for outcome in sample if not outcome.good] == []
    assert len(sample) == 303


def test_the_cases_reach_all_readers_and_go_deeper_than_the_first_check(sample: list[fuzz.Outcome]) -> None:
    for reader in ("model", "weights", "image"):
        said = [outcome.said for outcome in sample if outcome.reader == reader]
        assert any(text == "read" for text in said)
        assert len({re.sub(r"\d+", "", text.partition("/file")[2]) for text in said}) > 10  # reasons
    refused = [outcome.said for outcome in sample if outcome.reader == "model" and outcome.said != "read"]
    assert sum("seal" in text or "SHA-256" in text for text in refused) < len(refused) / 2


def test_a_number_gives_the_same_bytes_in_any_order() -> None:
    numbers = (5, 77, 1234, 9_999)
    assert [case(number) for number in numbers] == [case(number) for number in reversed(numbers)][::-1]


def waste(one: Case, file: Path) -> None:
    block = mmap.mmap(-1, fuzz.MEMORY + (16 << 20))  # new pages, where an allocation may find some that this process keeps
    block[:: 1 << 12] = bytes(len(block) >> 12)  # a byte of each


def ask(one: Case, file: Path) -> None:
    try:
        bytearray(1 << 45)
    except MemoryError:
        raise UserError("hidden") from None


def spin(one: Case, file: Path) -> None:
    while True:
        pass


def slip(one: Case, file: Path) -> None:
    raise KeyError("x")


def ramble(one: Case, file: Path) -> None:
    raise UserError("two\nlines")


def stop(one: Case, file: Path) -> None:
    os._exit(3)


def abort(one: Case, file: Path) -> None:
    os.abort()


@pytest.mark.parametrize(
    ("does", "said"),
    [
        (waste, "takes 1"),
        (ask, "asks for too much memory"),
        (spin, "hangs"),
        (slip, "raises KeyError"),
        (ramble, "says too much"),
        (stop, "ends the process"),
        (abort, "crashes: SIGABRT"),
    ],
)
def test_each_kind_of_failure_is_noticed_and_charged_to_its_case(
    does: Callable[[Case, Path], None], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fuzz, "SECONDS", 0.5)
    monkeypatch.setattr(fuzz, "MEMORY", 100 << 20)
    good = fuzz.read

    def once(one: Case, file: Path) -> None:
        (does if one.data == bad.data else good)(one, file)

    bad = case(8)
    monkeypatch.setattr(fuzz, "read", once)
    outcomes = list(fuzz.run([7, 8, 9]))
    assert [outcome.number for outcome in outcomes] == [7, 8, 9]
    assert [outcome.good for outcome in outcomes] == [True, False, True]
    assert outcomes[1].said.startswith(said)
