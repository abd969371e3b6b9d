"""Speeds side by side: rows in turn, medians of ratios taken round by round, each row in a process of its own."""

import pytest

from convatlas.benchmark.harness import run_in_subprocess, run_interleaved, table_cells
from convatlas.errors import UserError

SPEEDS = {"baseline": [10.0, 20.0, 5.0], "baseline-tuned": [20.0, 30.0, 10.0], "ours": [40.0, 60.0, 30.0]}


def test_ratios_are_taken_round_by_round_and_the_median_counts() -> None:
    turn: list[str] = []
    said: list[str] = []

    def measure(name: str) -> dict[str, float]:
        turn.append(name)
        return {"images_per_second": SPEEDS[name][turn.count(name) - 1], "memory_bytes": 2e6}

    rows = run_interleaved(list(SPEEDS), 3, measure, said.append)
    assert turn == 3 * list(SPEEDS)
    assert [row["name"] for row in rows] == list(SPEEDS)
    assert [row["images_per_second"] for row in rows] == [10, 20, 40]
    assert [row["ratio"] for row in rows] == [1, 2, 4]  # of 4, 3, 6
    assert [row["ratio_tuned"] for row in rows] == pytest.approx([0.5, 1, 2])
    assert said[4] == "round 2 of 3, baseline-tuned: 30.0 images/s"
    assert table_cells(rows)[2] == ("ours", "40.0", "4.00", "2.00", "2")


def test_a_row_that_fails_is_named_with_the_last_thing_that_it_said() -> None:
    with pytest.raises(UserError, match="lenet5, fast failed: convatlas: unknown row 'fast'"):
        run_in_subprocess("lenet5, fast", "bench", "train", "lenet5", "--row", "fast")
