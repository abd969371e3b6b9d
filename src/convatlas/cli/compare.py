"""`compare`: a table of the runs, a table of what differs, a sentence a pair."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional

from convatlas.cli.arguments import Json, arg
from convatlas.cli.output import paragraph, print_json, print_table, write
from convatlas.errors import printable
from convatlas.formatting import RUN_LETTERS, format_duration
from convatlas.storage.records import encode_json

SCORES = {"top1": "top-1", "mean_iou": "mean IU"}
VALUES_WIDTH = 96  # characters for the values of one field, all runs together
MAX_ALL_PAIRS = 3  # runs whose every pair is printed; of more, each beside the first


@dataclass
class Compare:
    """Compare runs: how they differ, their curves in one plot, a paired test on the same images."""

    runs: Annotated[
        Positional[tuple[Path, ...]],
        arg(metavar="RUN ...", help="Folders of two or more runs, finished or not."),
    ]
    png: Annotated[
        Path | None,
        arg(metavar="FILE", help="The curves; default compare-ID8-ID8.png beside the first run's folder."),
    ] = None
    json: Json = False

    def __call__(self) -> None:
        from convatlas.training.comparison import compare, curves

        records = compare.read_runs(self.runs)
        document = compare.compare_runs(records)
        has_curves = any(record.lines for record in records)
        file = (self.png or compare.plot_path(records)) if has_curves else None
        plot = curves.draw_curves(records, document["differences"]) if file else b""
        if not self.json:
            print_comparison(document)
        if file:
            write(file, plot, quiet=self.json)
        if self.json:
            print_json(document | {"curves": None if file is None else str(file)})


def print_comparison(document: dict[str, Any]) -> None:
    """Print the document of `compare`."""
    _print_runs(document["runs"])
    print()
    _print_differences(document["differences"], len(document["runs"]))
    print()
    for group in document["seeds"]:
        runs = _join_letters(group["runs"])
        score = document["runs"][group["runs"][0]]["score"]
        paragraph(
            f"{runs} differ in the seed alone: test {SCORES[score]} {group[f'{score}_mean']:.2f} % on "
            f"average, standard deviation {group[f'{score}_deviation']:.2f} points",
            2,
        )
    _print_pairs(document)


def _print_runs(rows: Sequence[dict[str, Any]]) -> None:
    scores = {row["score"] for row in rows}
    name = SCORES[scores.pop()] if len(scores) == 1 else "score"
    columns = (f"val {name} %", "best", f"test {name} %", "95 % interval", "test loss", "images", "time")
    cells = []
    for letter, row in zip(RUN_LETTERS, rows, strict=False):
        score = row["score"]
        low, high = row["test_interval"] or (None, None)
        cells.append(
            (
                letter,
                printable(row["out"]),
                _number(row[f"val_{score}"]),
                _number(row[f"best_val_{score}"]),
                _number(row[f"test_{score}"]),
                "-" if low is None else f"{low:.2f} to {high:.2f}",
                _number(row["test_loss"], 4),
                "-" if row["n"] is None else f"{row['n']:,}",
                format_duration(row["seconds"]),
            )
        )
    print_table(("", "run", *columns), cells, right=columns)
    for letter, row in zip(RUN_LETTERS, rows, strict=False):
        if not row["finished"]:
            print(
                f"{letter} is not finished (step {row['step']:,} of {row['steps']:,}): compared up to there"
            )


def _print_differences(fields: Sequence[dict[str, Any]], count: int) -> None:
    if not fields:
        print("their records do not differ: the same run in the same environment")
        return
    width = max(12, VALUES_WIDTH // count)
    cells = [
        (printable(field["path"]), *_shorten([_value(value) for value in field["values"]], width))
        for field in fields
    ]
    print_table(("what differs", *RUN_LETTERS[:count]), cells)


def _print_pairs(document: dict[str, Any]) -> None:
    pairs = document["paired"]
    if len(document["runs"]) <= MAX_ALL_PAIRS:
        printed = pairs
    else:
        printed = [pair for pair in pairs if pair["runs"][0] == pairs[0]["runs"][0]]
    for pair in printed:
        paragraph(_pair_sentence(pair), 2)
    if printed:
        remarks = ["The intervals cover other test images, not other seeds."]
        if len(pairs) > 1:
            threshold = f"{0.05 / len(pairs):.2g}"
            remarks.append(
                f"With {len(pairs)} pairs, only a p below {threshold} (0.05 / {len(pairs)}) counts."
            )
        if len(printed) < len(pairs):
            remarks.append(f"The other {len(pairs) - len(printed)} pairs: --json.")
        paragraph(" ".join(remarks), 0)
    runs_by_reason: dict[str, list[str]] = {}
    for entry in document["unpaired"]:
        runs = " with ".join(RUN_LETTERS[position] for position in entry["runs"])
        runs_by_reason.setdefault(entry["reason"], []).append(runs)
    for reason, unpaired in runs_by_reason.items():
        paragraph(f"not paired: {', '.join(unpaired)} ({printable(reason)})", 2)


def _pair_sentence(pair: dict[str, Any]) -> str:
    """Which of the two is better on the images that both could read, the better one first."""
    better, other = (RUN_LETTERS[position] for position in pair["runs"])
    labels_pixels = "p" not in pair
    keys = ("first_better", "second_better") if labels_pixels else ("only_first", "only_second")
    only_better, only_other = (pair[key] for key in keys)
    low, high = pair["interval"]
    difference = pair["difference"]
    if difference > 0:
        better, other = other, better
        only_better, only_other = only_other, only_better
    else:
        low, high = -high, -low
    verdict = f"{better} is exactly as good as"
    if difference:
        verdict = f"{better} is {abs(difference):.2f} points better than"
    unshared = f", without {pair['unshared']:,} that one of them could not read" if pair["unshared"] else ""
    if labels_pixels:
        return (
            f"{verdict} {other} in mean IU on the same {pair['n']:,} images{unshared} (95 % interval "
            f"{_signed(low)} to {_signed(high)}): {better} on {only_better:,} of them, {other} on "
            f"{only_other:,}"
        )
    p = f"p = {pair['p']:.2g}" if pair["p"] >= 0.001 else "p < 0.001"
    return (
        f"{verdict} {other} on the same {pair['n']:,} images{unshared} "
        f"(95 % interval {_signed(low)} to {_signed(high)}; McNemar {p}): "
        f"{only_better:,} only {better} predicted correctly, {only_other:,} only {other}"
    )


def _join_letters(positions: Sequence[int]) -> str:
    *letters, last = (RUN_LETTERS[position] for position in positions)
    return f"{', '.join(letters)} and {last}"


def _signed(value: float) -> str:
    return f"{value:.2f}".replace("-0.00", "0.00")


def _number(value: float | None, digits: int = 2) -> str:
    return "-" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def _value(value: Any) -> str:
    if value is None:
        return "-"
    return printable(value if isinstance(value, str) else encode_json(value).decode())


def _shorten(values: list[str], width: int) -> list[str]:
    """At most `width` characters of each, from shortly before the first position where they differ."""
    if max(map(len, values)) <= width:
        return values
    present = [value for value in values if value != "-"]
    columns = zip(*present, strict=False) if len(present) > 1 else ()
    common = sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, columns))
    start = max(0, common - 3)
    tails = [value if value == "-" or not start else "…" + value[start:] for value in values]
    return [tail if len(tail) <= width else tail[: width - 1] + "…" for tail in tails]
