"""`compare` in words: a table of the runs, a table of what differs, a sentence a pair."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Annotated, Any

import msgspec
from tyro.conf import Positional, arg

from convatlas.cli.arguments import Json
from convatlas.cli.output import paragraph, print_json, print_table, write
from convatlas.errors import printable
from convatlas.formatting import RUN_LETTERS, format_duration


@dataclass
class Compare:
    """Compare runs: what differs between their records, their curves in one picture, who was right on the same test images."""

    runs: Annotated[Positional[tuple[Path, ...]], arg(metavar="RUN ...", help="Folders of two or more runs, finished or not.")]
    png: Annotated[Path | None, arg(metavar="FILE", help="The curves; default compare-ID8-ID8.png beside the first run's folder.")] = None
    json: Json = False

    def __call__(self) -> None:
        from convatlas.training.comparison import compare, curves

        pasts = compare.read_runs(self.runs)
        document = compare.compare_runs(pasts)
        file = (self.png or compare.picture_path(pasts)) if any(past.lines for past in pasts) else None
        picture = curves.draw_curves(pasts, document["differences"]) if file else b""
        if not self.json:
            print_comparison(document)
        if file:
            write(file, picture, quiet=self.json)
        if self.json:
            print_json(document | {"curves": None if file is None else str(file)})


WIDTH = 96  # characters for the values of one field, all runs together
FEW = 3  # runs whose every pair is told; of more, each beside the first


def print_comparison(document: dict[str, Any]) -> None:
    """Print the document of `compare`."""
    _runs(document["runs"])
    print()
    _differences(document["differences"], len(document["runs"]))
    print()
    for group in document["seeds"]:
        paragraph(
            f"{_list(group['runs'])} differ in the seed alone: test top-1 {group['top1_mean']:.2f} % on average, standard deviation "
            f"{group['top1_deviation']:.2f} points",
            2,
        )
    _pairs(document)


def _runs(rows: Sequence[dict[str, Any]]) -> None:
    figures = ("val top-1 %", "best", "test top-1 %", "95 % interval", "test loss", "images", "time")
    cells = []
    for letter, row in zip(RUN_LETTERS, rows, strict=False):
        low, high = row["test_interval"] or (None, None)
        interval = "-" if low is None else f"{low:.2f} to {high:.2f}"
        scores = (_figure(row["val_top1"]), _figure(row["best_val_top1"]), _figure(row["test_top1"]), interval)
        rest = (_figure(row["test_loss"], 4), "-" if row["n"] is None else f"{row['n']:,}", format_duration(row["seconds"]))
        cells.append((letter, printable(row["out"]), *scores, *rest))
    print_table(("", "run", *figures), cells, right=figures)
    for letter, row in zip(RUN_LETTERS, rows, strict=False):
        if not row["finished"]:
            print(f"{letter} is not finished (step {row['step']:,} of {row['steps']:,}): compared as far as it has come")


def _differences(found: Sequence[dict[str, Any]], count: int) -> None:
    if not found:
        print("their records do not differ: the same run in the same environment")
        return
    cells = [(printable(one["path"]), *_short([_value(value) for value in one["values"]], max(12, WIDTH // count))) for one in found]
    print_table(("what differs", *RUN_LETTERS[:count]), cells)


def _pairs(document: dict[str, Any]) -> None:
    paired, few = document["paired"], len(document["runs"]) <= FEW
    told = [one for one in paired if few or one["runs"][0] == paired[0]["runs"][0]]
    for one in told:
        paragraph(_sentence(one), 2)
    if told:
        remarks = ["The intervals tell of other test images, not of other seeds."]
        if len(paired) > 1:
            threshold = f"{0.05 / len(paired):.2g}"
            remarks.append(f"Of {len(paired)} pairs, only a p below {threshold} (0.05 / {len(paired)}) counts.")
        if len(told) < len(paired):
            remarks.append(f"The other {len(paired) - len(told)} pairs: --json.")
        paragraph(" ".join(remarks), 0)
    reasons: dict[str, list[str]] = {}
    for one in document["unpaired"]:
        reasons.setdefault(one["why"], []).append(" with ".join(RUN_LETTERS[i] for i in one["runs"]))
    for why, which in reasons.items():
        paragraph(f"not paired: {', '.join(which)} ({printable(why)})", 2)


def _sentence(one: dict[str, Any]) -> str:
    """Which of the two is better on the images that both saw, the better one first."""
    better, other = (RUN_LETTERS[i] for i in one["runs"])
    only_better, only_other, (low, high) = one["only_first"], one["only_second"], one["interval"]
    if one["difference"] > 0:
        better, other, only_better, only_other = other, better, only_other, only_better
    else:
        low, high = -high, -low
    verdict = f"{better} is {abs(one['difference']):.2f} points better than" if one["difference"] else f"{better} is exactly as good as"
    skipped = f", without {one['unshared']:,} that one of them could not read" if one["unshared"] else ""
    p = f"p = {one['p']:.2g}" if one["p"] >= 0.001 else "p < 0.001"
    return (
        f"{verdict} {other} on the same {one['n']:,} images{skipped} (95 % interval {_signed(low)} to {_signed(high)}; McNemar {p}): "
        f"{only_better:,} only {better} got right, {only_other:,} only {other}"
    )


def _list(places: Sequence[int]) -> str:
    *rest, last = (RUN_LETTERS[i] for i in places)
    return f"{', '.join(rest)} and {last}"


def _signed(value: float) -> str:
    return f"{value:.2f}".replace("-0.00", "0.00")


def _figure(value: float | None, digits: int = 2) -> str:
    return "-" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def _value(value: Any) -> str:
    return "-" if value is None else printable(value) if isinstance(value, str) else printable(msgspec.json.encode(value).decode())


def _short(values: list[str], width: int) -> list[str]:
    """At most `width` characters of each, from shortly before the first place where they differ."""
    if max(map(len, values)) <= width:
        return values
    there = [value for value in values if value != "-"]
    characters = zip(*there, strict=False) if len(there) > 1 else ()
    start = max(0, sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, characters)) - 3)
    cut = [value if value == "-" or not start else "…" + value[start:] for value in values]
    return [value if len(value) <= width else value[: width - 1] + "…" for value in cut]
