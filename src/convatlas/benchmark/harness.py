"""Speeds side by side: each row in a process of its own, the rows in turn, for several rounds; ratios are
medians of ratios taken round by round."""

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
    """Measure the rows in turn, `rounds` times. Returns the rows of a `bench` document: medians, with `ratio`
    to the row `baseline` and `ratio_tuned` to the row `baseline-tuned`."""
    measurements: dict[str, list[Measurement]] = {name: [] for name in names}
    for round_index in range(rounds):
        for name in names:
            measurement = measure(name)
            measurements[name].append(measurement)
            rate = format_rate(measurement["images_per_second"])
            say(f"round {round_index + 1} of {rounds}, {name}: {rate} images/s")

    def median(name: str, key: str) -> float:
        return statistics.median(measurement[key] for measurement in measurements[name])

    def ratio(name: str, baseline: str) -> float:
        """The median of the ratios of each round, because the machine's speed drifts."""
        pairs = zip(measurements[name], measurements[baseline], strict=True)
        return statistics.median(a["images_per_second"] / b["images_per_second"] for a, b in pairs)

    return [
        {
            "name": name,
            "images_per_second": median(name, "images_per_second"),
            "ratio": ratio(name, "baseline"),
            "ratio_tuned": ratio(name, "baseline-tuned"),
            "memory_bytes": int(median(name, "memory_bytes")),
        }
        for name in names
    ]


def run_in_subprocess(description: str, *arguments: str) -> Measurement:
    """Run `convatlas ARGUMENTS` in a process of its own, and parse the JSON that it prints. Raises UserError
    with its last line when it fails."""
    process = subprocess.run(
        [sys.executable, "-m", "convatlas", *arguments], capture_output=True, text=True, check=False
    )
    if process.returncode != 0:
        last_lines = process.stderr.strip().splitlines()[-1:] or ["no message"]
        raise UserError(f"{description} failed: {last_lines[0]}")
    measurement: Measurement = json.loads(process.stdout)
    return measurement


def table_cells(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """The rows of a document as text: name, images per second, both ratios, peak megabytes."""
    return [
        (
            row["name"],
            format_rate(row["images_per_second"]),
            f"{row['ratio']:.2f}",
            f"{row['ratio_tuned']:.2f}",
            f"{row['memory_bytes'] / 1e6:,.0f}",
        )
        for row in rows
    ]


def format_rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"
