"""Speeds side by side: each row in a process of its own, the rows in turn, for several rounds; ratios are
medians of ratios taken round by round."""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from convatlas.errors import UserError
from convatlas.formatting import format_duration
from convatlas.runtime.signals import StoppedBySignal

DEFAULT_ROUNDS = 5
DEFAULT_SECONDS = 120.0  # for all rounds
Measurement = dict[str, float]  # images_per_second, and memory_bytes where it is measured


def run_interleaved(
    names: Sequence[str],
    rounds: int | None,
    measure: Callable[[str], Measurement],
    say: Callable[[str], None],
    earlier: Sequence[Mapping[str, Any]] = (),
    baseline: str = "baseline",
) -> list[dict[str, Any]]:
    """Measure the rows in turn, `rounds` times (None: as often as DEFAULT_SECONDS allow, at most
    DEFAULT_ROUNDS). Returns the rows of a `bench` document: medians, with the lowest and the highest rate of
    the rounds, with `ratio` to the row `baseline` (its name, unless another is given) and `ratio_tuned` to
    the row `baseline-tuned`.

    A row whose measurement raises UserError is not measured again: its figures are None, and `error` says
    why. After a stop by a signal the rows have what was measured until then, if anything was, in these or the
    `earlier` rows of the table: `stopped` is then the signal's exit code in each incomplete row.
    """
    measurements: dict[str, list[Measurement]] = {name: [] for name in names}
    errors: dict[str, str] = {}
    stopped: dict[str, int] = {}  # by row that a signal left incomplete: its exit code
    total, round_index, start = rounds or DEFAULT_ROUNDS, 0, time.monotonic()
    try:
        while round_index < total:
            for name in (name for name in names if name not in errors):
                try:
                    measurement = measure(name)
                except UserError as error:
                    errors[name] = str(error)
                    say(f"{name} is left out: {error}")
                    continue
                measurements[name].append(measurement)
                rate = format_rate(measurement["images_per_second"])
                of_total = f" of {total}" if rounds or round_index else ""
                say(f"round {round_index + 1}{of_total}, {name}: {rate} images/s")
            round_index += 1
            seconds = time.monotonic() - start
            if round_index == 1 and rounds is None:
                total = min(DEFAULT_ROUNDS, max(1, round(DEFAULT_SECONDS / max(seconds, 1e-9))))
            if round_index == 1:
                say(f"a round takes {format_duration(seconds)}: {_remaining(total, seconds)}")
    except (KeyboardInterrupt, StoppedBySignal) as error:
        if not any(measurements.values()) and not any(row["images_per_second"] for row in earlier):
            raise
        message = str(error) or "interrupted"
        say(f"{message}: these are the rows that were measured until then")
        code = error.exit_code if isinstance(error, StoppedBySignal) else 130
        incomplete = [name for name in names if name not in errors and len(measurements[name]) < total]
        stopped = dict.fromkeys(incomplete, code)
        errors |= dict.fromkeys(incomplete, f"{message} before it was measured")
    rows = [_row(name, measurements, baseline, errors.get(name, "")) for name in names]
    return [row | ({"stopped": stopped[row["name"]]} if row["name"] in stopped else {}) for row in rows]


def _remaining(total: int, seconds: float) -> str:
    """What comes after the first of `total` rounds, which took `seconds`."""
    if total == 1:
        return "there is one; for an interval of several take --rounds N"
    return f"there are {total}, about {format_duration(seconds * (total - 1))} to go"


def exit_code(rows: Sequence[Mapping[str, Any]]) -> int:
    """0 when all rows were measured, 1 when one could not be, a signal's exit code when it ended the
    measurement."""
    stopped = [row["stopped"] for row in rows if "stopped" in row]
    return stopped[0] if stopped else int(any("error" in row for row in rows))


def _row(
    name: str, measurements: Mapping[str, Sequence[Measurement]], baseline: str, error: str
) -> dict[str, Any]:
    own = measurements[name]
    if not own:
        figures = dict.fromkeys(
            ("images_per_second", "lowest", "highest", "ratio", "ratio_tuned", "memory_bytes")
        )
        return {"name": name, "rounds": 0, **figures, "error": error}

    def ratio(other: str) -> float | None:
        """The median of the ratios of each round, because the machine's speed drifts."""
        pairs = list(zip(own, measurements.get(other, ()), strict=False))
        ratios = [a["images_per_second"] / b["images_per_second"] for a, b in pairs]
        return statistics.median(ratios) if ratios else None

    rates = [measurement["images_per_second"] for measurement in own]
    memory = [measurement["memory_bytes"] for measurement in own if "memory_bytes" in measurement]
    return {
        "name": name,
        "rounds": len(own),
        "images_per_second": statistics.median(rates),
        "lowest": min(rates),
        "highest": max(rates),
        "ratio": ratio(baseline),
        "ratio_tuned": ratio("baseline-tuned"),
        "memory_bytes": int(statistics.median(memory)) if memory else None,
    }


def add_share(rows: Sequence[dict[str, Any]], flops: float, peak: float) -> None:
    """Add `share`: the rate of a row's operations, `flops` an image, in percent of the device's peak."""
    for row in rows:
        rate = row["images_per_second"]
        row["share"] = None if rate is None else 100 * rate * flops / peak


def run_in_subprocess(description: str, *arguments: str) -> Measurement:
    """Run `convatlas ARGUMENTS` in a process of its own, and parse the JSON that it prints. Raises UserError
    with its last line when it fails."""
    process = subprocess.run(
        [sys.executable, "-m", "convatlas", *arguments], capture_output=True, text=True, check=False
    )
    if process.returncode != 0:
        last_lines = process.stderr.strip().splitlines()[-1:] or ["no message"]
        raise UserError(f"{description} failed: {last_lines[0].removeprefix('convatlas: ')}")
    measurement: Measurement = json.loads(process.stdout)
    return measurement


def table_cells(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """The rows of a document as text: name, images per second with the interval of the rounds, both ratios,
    peak megabytes."""

    def cell(value: float | None, form: Callable[[float], str]) -> str:
        return "-" if value is None else form(value)

    return [
        (
            row["name"],
            cell(row["images_per_second"], format_rate),
            "-"
            if row["lowest"] is None
            else f"{format_rate(row['lowest'])} to {format_rate(row['highest'])}",
            cell(row["ratio"], "{:.2f}".format),
            cell(row["ratio_tuned"], "{:.2f}".format),
            cell(row["memory_bytes"], lambda size: f"{size / 1e6:,.0f}"),
        )
        for row in rows
    ]


def format_rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"
