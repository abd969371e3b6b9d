"""Runs beside each other: what differs between their records, how far each came, and who was right where on the same samples.

Only reads what lies in their folders: no data set is opened and no network built.
"""

import os
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from convatlas.errors import UsageError, UserError, printable
from convatlas.evaluation import metrics, predictions
from convatlas.evaluation.significance import Correctness, correctness, paired_comparison, pairing_problem
from convatlas.formatting import RUN_LETTERS
from convatlas.training import run as runs
from convatlas.training.run import Run, RunFile

T = TypeVar("T")
WORDS = {"notes", "format"}, {"source", "reduced", "unstated", "substituted"}  # of a run, of its recipe: they tell of other fields


class MetricLine(msgspec.Struct, frozen=True):
    """Of a line in metrics.jsonl, what is compared; a loss that was not finite is None."""

    split: str
    step: int
    epoch: float
    loss: float | None = None
    top1: float | None = None
    lr: float | None = None
    n: int | None = None


class _TimingLine(msgspec.Struct, frozen=True):
    seconds: float = 0.0


@dataclass(frozen=True)
class RunRecord:
    """What a run's folder tells of it; `marks` are None where it has not finished, or was trained before answers were kept."""

    path: Path
    run_file: RunFile
    lines: list[MetricLine]
    seconds: float
    correctness: Correctness | None

    @property
    def run(self) -> Run:
        return self.run_file.run

    @property
    def step(self) -> int:
        return max((line.step for line in self.lines), default=0)

    @property
    def test(self) -> MetricLine | None:
        """What was logged after the last step; None where the run has not come so far."""
        return next((line for line in self.lines if line.split == "test"), None)

    def scores(self, split: str) -> list[MetricLine]:
        return [line for line in self.lines if line.split == split]


def read_runs(paths: Sequence[Path]) -> list[RunRecord]:
    """Raises as `read`, and UsageError where there is nothing to compare."""
    if not 2 <= len(paths) <= len(RUN_LETTERS):
        raise UsageError(f"compare takes 2 to {len(RUN_LETTERS)} runs' folders, not {len(paths)}")
    known: set[Path] = set()
    for path in paths:
        if path.resolve() in known:
            raise UsageError(f"{printable(path)} is named twice: give each run's folder once")
        known.add(path.resolve())
    return [read_run(path) for path in paths]


def read_run(path: Path) -> RunRecord:
    """Raises UserError when the folder holds no run or something in it is damaged, UsageError for a run that does not fit or has a
    later format version."""
    file = path / "run.json"
    try:
        stored = runs.read_run_file(file.read_bytes(), str(file))
    except OSError as error:
        raise UserError(f"cannot read {printable(file)} ({error.strerror}): expected a run's folder") from None
    if stored.run.data.content is None:
        raise UserError(f"{printable(file)} holds a run that was never started: its data has not been opened")
    lines = _lines(path / "metrics.jsonl", MetricLine)
    seconds = sum(spell.seconds for spell in _lines(path / "timing.jsonl", _TimingLine))
    past = RunRecord(path, stored, lines, seconds, None)
    kept = path / predictions.FILE
    if past.test is None or not kept.exists():
        return past
    answers = predictions.read_predictions(kept)
    if answers.metadata.run != stored.run.id:
        raise UserError(f"{printable(kept)} belongs to another run than {printable(file)}: train the run again")
    return RunRecord(path, stored, lines, seconds, correctness(answers))


def _lines(file: Path, type_: type[T]) -> list[T]:
    """The whole lines of a file, whose last may be torn: a process may be writing it. None where there is no file."""
    try:
        whole = file.read_bytes().split(b"\n")[:-1]
    except FileNotFoundError:
        return []
    decoder, found = msgspec.json.Decoder(type_), []
    for number, line in enumerate(whole, 1):
        try:
            found.append(decoder.decode(line))
        except (msgspec.DecodeError, RecursionError) as error:
            raise UserError(f"{printable(file)} is damaged at line {number}: {error}") from None
    return found


def compare_runs(pasts: Sequence[RunRecord]) -> dict[str, Any]:
    """The document of `compare`, without the picture; accuracies in percent, runs by their place in `pasts`.

    `runs`; `differences` between their records, by path; `paired`, each two that answered the same samples (see
    evaluation/significance.py); `unpaired`, runs or pairs of them with the reason why not; `seeds`, the mean and the standard deviation of
    the test top-1 of three or more runs that differ in their seed alone.
    """
    paired: list[dict[str, Any]] = []
    unpaired = [{"runs": [i], "why": _missing_predictions(past)} for i, past in enumerate(pasts) if past.correctness is None]
    for (i, one), (j, two) in combinations(enumerate(pasts), 2):
        if one.correctness is not None and two.correctness is not None:
            why = pairing_problem(one.correctness, two.correctness)
            if why is None:
                paired.append({"runs": [i, j]} | paired_comparison(one.correctness, two.correctness))
            else:
                unpaired.append({"runs": [i, j], "why": why})
    return {
        "runs": [_summary(past) for past in pasts],
        "differences": differences([past.run_file for past in pasts]),
        "paired": paired,
        "unpaired": unpaired,
        "seeds": _seeds(pasts),
    }


def differences(stored: Sequence[RunFile]) -> list[dict[str, Any]]:
    """The fields in which runs or environments differ: `{"path": "run.recipe.optimizer.lr", "values": [one a run]}`, None where a
    record lacks the field. What merely tells of other fields in words is left out."""
    documents = [msgspec.to_builtins(one) for one in stored]
    for one in documents:
        for part, words in zip((one["run"], one["run"]["recipe"]), WORDS, strict=True):
            for name in words:
                part.pop(name, None)
    return _differences(documents, "")


def _differences(values: list[Any], path: str) -> list[dict[str, Any]]:
    if all(value == values[0] for value in values):
        return []
    prefix = f"{path}." if path else ""
    if all(value is None or isinstance(value, dict) for value in values):
        keys = dict.fromkeys(key for value in values for key in value or ())
        return [found for key in keys for found in _differences([(value or {}).get(key) for value in values], f"{prefix}{key}")]
    if _records(values):
        return [found for i, items in enumerate(zip(*values, strict=True)) for found in _differences(list(items), f"{prefix}{i}")]
    return [{"path": path, "values": values}]


def _records(values: list[Any]) -> bool:
    """Whether these are lists of records that correspond by their place, as augmentations do."""
    return all(isinstance(v, list | tuple) and len(v) == len(values[0]) and all(isinstance(item, dict) for item in v) for v in values)


def _summary(past: RunRecord) -> dict[str, Any]:
    validated = [line.top1 for line in past.scores("val") if line.top1 is not None]
    test = past.test or MetricLine("test", past.step, 0.0)
    return {
        "out": str(past.path),
        "run_id": past.run.id,
        "finished": past.test is not None,
        "step": past.step,
        "steps": past.run.steps,
        "val_top1": validated[-1] if validated else None,
        "best_val_top1": max(validated, default=None),
        "test_top1": test.top1,
        "test_interval": metrics.interval(round(test.top1 * test.n / 100), test.n) if test.top1 is not None and test.n else None,
        "test_loss": test.loss,
        "n": test.n,
        "seconds": past.seconds,
    }


def _missing_predictions(past: RunRecord) -> str:
    return "not finished" if past.test is None else f"no {predictions.FILE}: trained before answers were kept"


def _seeds(pasts: Sequence[RunRecord]) -> list[dict[str, Any]]:
    """Groups of three or more finished runs that are the same but for their seed; a run that is there twice counts once."""
    groups: dict[str, dict[int, tuple[int, float]]] = {}
    for i, past in enumerate(pasts):
        if past.test is not None and past.test.top1 is not None:
            groups.setdefault(past.run.replace(seed=0).id, {}).setdefault(past.run.seed, (i, past.test.top1))
    found = []
    for group in groups.values():
        if len(group) >= 3:
            places, top1 = zip(*group.values(), strict=True)
            found.append({"runs": [*places], "top1_mean": statistics.mean(top1), "top1_deviation": statistics.stdev(top1)})
    return found


def picture_path(pasts: Sequence[RunRecord]) -> Path:
    """`compare-ID8-ID8.png` beside the first run's folder; at most eight runs are in the name."""
    beside = pasts[0].path / ".."
    return Path(os.path.normpath(beside)) / f"compare-{'-'.join(past.run.id[:8] for past in pasts[:8])}.png"
