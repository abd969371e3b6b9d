"""Speeds side by side: each row in a process of its own, the rows in turn, several rounds, medians of ratios taken round by round."""

import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from convatlas.errors import UserError

Measurement = dict[str, float]  # images_per_second, memory_bytes


def run_interleaved(
    names: Sequence[str], rounds: int, measure: Callable[[str], Measurement], say: Callable[[str], None]
) -> list[dict[str, Any]]:
    """The rows of a `bench` document: `ratio` is to the row `baseline`, `ratio_tuned` to `baseline-tuned`."""
    measured: dict[str, list[Measurement]] = {name: [] for name in names}
    for turn in range(rounds):
        for name in names:
            measured[name].append(measure(name))
            say(f"round {turn + 1} of {rounds}, {name}: {format_rate(measured[name][-1]['images_per_second'])} images/s")

    def ratio(name: str, to: str) -> float:  # round by round: the machine's speed drifts
        return statistics.median(a["images_per_second"] / b["images_per_second"] for a, b in zip(measured[name], measured[to], strict=True))

    return [
        {
            "name": name,
            "images_per_second": statistics.median(m["images_per_second"] for m in measured[name]),
            "ratio": ratio(name, "baseline"),
            "ratio_tuned": ratio(name, "baseline-tuned"),
            "memory_bytes": int(statistics.median(m["memory_bytes"] for m in measured[name])),
        }
        for name in names
    ]


def run_in_subprocess(what: str, *words: str) -> Measurement:
    """What `convatlas WORDS` prints as JSON, run in a process of its own. Raises UserError with its last line when it fails."""
    done = subprocess.run([sys.executable, "-m", "convatlas", *words], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last = done.stderr.strip().splitlines()[-1:] or ["no message"]
        raise UserError(f"{what} failed: {last[0]}")
    found: Measurement = json.loads(done.stdout)
    return found


def table_cells(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """The rows as a person reads them: name, images a second, both ratios, peak megabytes."""
    return [
        (r["name"], format_rate(r["images_per_second"]), f"{r['ratio']:.2f}", f"{r['ratio_tuned']:.2f}", f"{r['memory_bytes'] / 1e6:,.0f}")
        for r in rows
    ]


def format_rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"
