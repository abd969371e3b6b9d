"""Speeds side by side: rows in turn, medians of ratios taken round by round, a process for each row."""

import signal

import pytest

from convatlas.benchmark.harness import exit_code, run_in_subprocess, run_interleaved, table_cells
from convatlas.errors import UserError
from convatlas.runtime.signals import StoppedBySignal

SPEEDS = {"baseline": [10.0, 20.0, 5.0], "baseline-tuned": [20.0, 30.0, 10.0], "ours": [40.0, 60.0, 30.0]}


def test_ratios_are_medians_of_the_ratios_of_each_round() -> None:
    measured_names: list[str] = []
    messages: list[str] = []

    def measure(name: str) -> dict[str, float]:
        measured_names.append(name)
        round_index = measured_names.count(name) - 1
        return {"images_per_second": SPEEDS[name][round_index], "memory_bytes": 2e6}

    rows = run_interleaved(list(SPEEDS), 3, measure, messages.append)
    assert measured_names == 3 * list(SPEEDS)
    assert [row["name"] for row in rows] == list(SPEEDS)
    assert [row["images_per_second"] for row in rows] == [10, 20, 40]
    assert [row["ratio"] for row in rows] == [1, 2, 4]  # of 4, 3, 6
    assert [row["ratio_tuned"] for row in rows] == pytest.approx([0.5, 1, 2])
    assert [(row["lowest"], row["highest"]) for row in rows] == [(5, 20), (10, 30), (30, 60)]
    assert messages[3].startswith("a round takes 0 s: there are 3, about 0 s to go")
    assert messages[5] == "round 2 of 3, baseline-tuned: 30.0 images/s"
    assert table_cells(rows)[2] == ("ours", "40.0", "30.0 to 60.0", "4.00", "2.00", "2")


@pytest.mark.parametrize(
    ("seconds", "rounds", "message"),
    [
        (10.0, 5, "a round takes 20 s: there are 5, about 1 min 20 s to go"),
        (30.0, 2, "a round takes 1 min 00 s: there are 2, about 1 min 00 s to go"),
        (100.0, 1, "a round takes 3 min 20 s: there is one; for an interval of several take --rounds N"),
    ],
)
def test_by_default_rows_are_measured_for_two_minutes(
    seconds: float, rounds: int, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]

    def measure(name: str) -> dict[str, float]:
        clock[0] += seconds
        return {"images_per_second": 1.0, "memory_bytes": 2e6}

    monkeypatch.setattr("convatlas.benchmark.harness.time.monotonic", lambda: clock[0])
    messages: list[str] = []
    rows = run_interleaved(["baseline", "ours"], None, measure, messages.append)
    assert [row["rounds"] for row in rows] == [rounds, rounds]
    assert message in messages


def test_a_row_that_cannot_be_measured_says_why_and_the_others_stand() -> None:
    def measure(name: str) -> dict[str, float]:
        if name == "onnx":
            raise UserError("lenet5, onnx failed: no such operator")
        return {"images_per_second": SPEEDS[name][0], "memory_bytes": 2e6}

    messages: list[str] = []
    rows = run_interleaved(["baseline", "onnx", "ours"], 2, measure, messages.append)
    assert [row["images_per_second"] for row in rows] == [10, None, 40]
    assert rows[1]["error"] == "lenet5, onnx failed: no such operator"
    assert messages.count("onnx is left out: lenet5, onnx failed: no such operator") == 1
    assert [row["ratio"] for row in rows] == [1, None, 4]
    assert [row["ratio_tuned"] for row in rows] == [None, None, None]
    assert table_cells(rows)[1] == ("onnx", "-", "-", "-", "-", "-")
    assert exit_code(rows) == 1


@pytest.mark.parametrize(
    ("stop", "message", "code"),
    [
        (KeyboardInterrupt(), "interrupted", 130),
        (StoppedBySignal(signal.SIGINT, "interrupted"), "interrupted", 130),
        (StoppedBySignal(signal.SIGTERM, "stopped by SIGTERM"), "stopped by SIGTERM", 143),
    ],
)
def test_a_table_that_a_signal_stopped_has_the_rows_that_were_measured(
    stop: BaseException, message: str, code: int
) -> None:
    def measure(name: str) -> dict[str, float]:
        if name == "ours":
            raise stop
        return {"images_per_second": SPEEDS[name][0], "memory_bytes": 2e6}

    rows = run_interleaved(["baseline", "baseline-tuned", "ours"], 2, measure, lambda line: None)
    assert [row["images_per_second"] for row in rows] == [10, 20, None]
    assert [row.get("error") for row in rows] == [None, None, f"{message} before it was measured"]
    assert exit_code(rows) == code
    with pytest.raises(type(stop)):
        run_interleaved(["ours"], 2, measure, lambda line: None)
    (row,) = run_interleaved(["ours"], 2, measure, lambda line: None, earlier=rows)
    assert row["images_per_second"] is None
    assert row["stopped"] == code


def test_a_row_that_failed_before_a_signal_still_says_why() -> None:
    def measure(name: str) -> dict[str, float]:
        if name == "onnx":
            raise UserError("no such operator")
        if name == "ours":
            raise StoppedBySignal(signal.SIGTERM, "stopped by SIGTERM")
        return {"images_per_second": 10.0, "memory_bytes": 2e6}

    rows = run_interleaved(["baseline", "onnx", "ours"], 1, measure, lambda line: None)
    assert [row.get("error") for row in rows[1:]] == [
        "no such operator",
        "stopped by SIGTERM before it was measured",
    ]
    assert exit_code(rows) == 143


def test_a_signal_in_a_later_round_is_the_exit_code_of_a_table_without_errors() -> None:
    calls = 0

    def measure(name: str) -> dict[str, float]:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise StoppedBySignal(signal.SIGTERM, "stopped by SIGTERM")
        return {"images_per_second": SPEEDS[name][0], "memory_bytes": 2e6}

    rows = run_interleaved(["baseline", "ours"], 2, measure, lambda line: None)
    assert [row.get("stopped") for row in rows] == [None, 143]
    assert exit_code(rows) == 143
    assert exit_code(rows[:1]) == 0


def test_a_row_that_fails_is_named_with_its_last_line() -> None:
    with pytest.raises(UserError, match="lenet5, fast failed: unknown row 'fast'"):
        run_in_subprocess("lenet5, fast", "bench", "train", "lenet5", "--row", "fast")
