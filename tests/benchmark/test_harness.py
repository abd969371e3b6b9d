"""Speeds side by side: rows in turn, medians of ratios taken round by round, a process for each row."""

import pytest

from convatlas.benchmark.harness import run_in_subprocess, run_interleaved, table_cells
from convatlas.errors import UserError

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
    assert messages[4] == "round 2 of 3, baseline-tuned: 30.0 images/s"
    assert table_cells(rows)[2] == ("ours", "40.0", "4.00", "2.00", "2")


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
    assert table_cells(rows)[1] == ("onnx", "-", "-", "-", "-")


def test_an_interrupted_table_has_the_rows_that_were_measured() -> None:
    def measure(name: str) -> dict[str, float]:
        if name == "ours":
            raise KeyboardInterrupt
        return {"images_per_second": SPEEDS[name][0], "memory_bytes": 2e6}

    rows = run_interleaved(["baseline", "baseline-tuned", "ours"], 2, measure, lambda line: None)
    assert [row["images_per_second"] for row in rows] == [10, 20, None]
    assert rows[2]["error"] == "interrupted before it was measured"
    with pytest.raises(KeyboardInterrupt):
        run_interleaved(["ours"], 2, measure, lambda line: None)


def test_a_row_that_fails_is_named_with_its_last_line() -> None:
    with pytest.raises(UserError, match="lenet5, fast failed: unknown row 'fast'"):
        run_in_subprocess("lenet5, fast", "bench", "train", "lenet5", "--row", "fast")
