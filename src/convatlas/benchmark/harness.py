"""Speeds side by side: each row in a process of its own, the rows in turn, for several rounds; ratios are
medians of ratios taken round by round."""

import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from convatlas.errors import UserError
from convatlas.runtime.signals import StoppedBySignal

Measurement = dict[str, float]  # images_per_second, memory_bytes


def run_interleaved(
    names: Sequence[str],
    rounds: int,
    measure: Callable[[str], Measurement],
    say: Callable[[str], None],
    earlier: Sequence[Mapping[str, Any]] = (),
) -> list[dict[str, Any]]:
    """Measure the rows in turn, `rounds` times. Returns the rows of a `bench` document: medians, with `ratio`
    to the row `baseline` and `ratio_tuned` to the row `baseline-tuned`.

    A row whose measurement raises UserError is not measured again: its figures are None, and `error` says
    why. After a stop by a signal the rows have what was measured until then, if anything was, in these or the
    `earlier` rows of the table: `stopped` is then the signal's exit code in each incomplete row.
    """
    measurements: dict[str, list[Measurement]] = {name: [] for name in names}
    errors: dict[str, str] = {}
    stopped: dict[str, int] = {}  # by row that a signal left incomplete: its exit code
    try:
        for round_index in range(rounds):
            for name in (name for name in names if name not in errors):
                try:
                    measurement = measure(name)
                except UserError as error:
                    errors[name] = str(error)
                    say(f"{name} is left out: {error}")
                    continue
                measurements[name].append(measurement)
                rate = format_rate(measurement["images_per_second"])
                say(f"round {round_index + 1} of {rounds}, {name}: {rate} images/s")
    except (KeyboardInterrupt, StoppedBySignal) as error:
        if not any(measurements.values()) and not any(row["images_per_second"] for row in earlier):
            raise
        message = str(error) or "interrupted"
        say(f"{message}: these are the rows that were measured until then")
        code = error.exit_code if isinstance(error, StoppedBySignal) else 130
        incomplete = [name for name in names if name not in errors and len(measurements[name]) < rounds]
        stopped = dict.fromkeys(incomplete, code)
        errors |= dict.fromkeys(incomplete, f"{message} before it was measured")
    rows = [_row(name, measurements, errors.get(name, "")) for name in names]
    return [row | ({"stopped": stopped[row["name"]]} if row["name"] in stopped else {}) for row in rows]


def exit_code(rows: Sequence[Mapping[str, Any]]) -> int:
    """0 when all rows were measured, 1 when one could not be, a signal's exit code when it ended the
    measurement."""
    stopped = [row["stopped"] for row in rows if "stopped" in row]
    return stopped[0] if stopped else int(any("error" in row for row in rows))


def _row(name: str, measurements: Mapping[str, Sequence[Measurement]], error: str) -> dict[str, Any]:
    own = measurements[name]
    if not own:
        figures = dict.fromkeys(("images_per_second", "ratio", "ratio_tuned", "memory_bytes"))
        return {"name": name, **figures, "error": error}

    def ratio(baseline: str) -> float | None:
        """The median of the ratios of each round, because the machine's speed drifts."""
        pairs = list(zip(own, measurements.get(baseline, ()), strict=False))
        ratios = [a["images_per_second"] / b["images_per_second"] for a, b in pairs]
        return statistics.median(ratios) if ratios else None

    return {
        "name": name,
        "images_per_second": statistics.median(measurement["images_per_second"] for measurement in own),
        "ratio": ratio("baseline"),
        "ratio_tuned": ratio("baseline-tuned"),
        "memory_bytes": int(statistics.median(measurement["memory_bytes"] for measurement in own)),
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
    """The rows of a document as text: name, images per second, both ratios, peak megabytes."""

    def cell(value: float | None, form: Callable[[float], str]) -> str:
        return "-" if value is None else form(value)

    return [
        (
            row["name"],
            cell(row["images_per_second"], format_rate),
            cell(row["ratio"], "{:.2f}".format),
            cell(row["ratio_tuned"], "{:.2f}".format),
            cell(row["memory_bytes"], lambda size: f"{size / 1e6:,.0f}"),
        )
        for row in rows
    ]


def format_rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"
