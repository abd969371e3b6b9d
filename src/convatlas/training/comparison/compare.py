"""Runs side by side: what differs between their records, how far each came, and which of them was correct on
which samples.

Reads only the runs' folders: no data set is opened and no network built.
"""

import os
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from convatlas.data.task import Task
from convatlas.errors import UsageError, UserError, printable
from convatlas.evaluation import metrics, predictions
from convatlas.evaluation.mask_predictions import read_mask_predictions
from convatlas.evaluation.mask_significance import mask_pairing_problem, paired_mask_comparison
from convatlas.evaluation.predictions import PredictionsMetadata
from convatlas.evaluation.significance import Correctness, correctness, paired_comparison, pairing_problem
from convatlas.formatting import RUN_LETTERS
from convatlas.segmentation.metrics import bootstrap_interval
from convatlas.segmentation.task import MaskPredictions
from convatlas.storage.json_lines import RESTORE, read_json_lines
from convatlas.training.metrics_log import REMOVE_TIMING
from convatlas.training.run import Run, RunFile
from convatlas.training.run_folder import read_run_folder
from convatlas.training.tasks import task_of

T = TypeVar("T")
# Fields that only describe other fields: of a run, of its recipe
DESCRIPTIONS = ({"notes", "format"}, {"source", "reduced", "unstated", "substituted"})


class MetricLine(msgspec.Struct, frozen=True):
    """The fields of a line in metrics.jsonl that are compared.

    A loss that was not finite is None; events have no split here.
    """

    step: int
    epoch: float
    split: str = ""
    event: str = ""
    loss: float | None = None
    top1: float | None = None
    mean_iou: float | None = None
    lr: float | None = None
    n: int | None = None

    @property
    def score(self) -> float | None:
        """The score of the run's task; the training lines of a network that labels pixels have none."""
        return self.mean_iou if self.top1 is None else self.top1


class _TimingLine(msgspec.Struct, frozen=True):
    seconds: float = 0.0


@dataclass(frozen=True)
class RunRecord:
    """The content of a run's folder. Of a run that has finished, `correctness` or `masks` say what it
    predicted on the test split."""

    path: Path
    run_file: RunFile
    lines: list[MetricLine]
    seconds: float
    correctness: Correctness | None
    masks: tuple[MaskPredictions, PredictionsMetadata] | None = None

    @property
    def run(self) -> Run:
        return self.run_file.run

    @property
    def task(self) -> Task:
        return task_of(self.run)

    @property
    def step(self) -> int:
        return max((line.step for line in self.lines), default=0)

    @property
    def test(self) -> MetricLine | None:
        """The line after the last step; None for a run that has not finished."""
        return next(iter(self.scores("test")), None)

    def scores(self, split: str) -> list[MetricLine]:
        return [line for line in self.lines if line.split == split and not line.event]


def read_runs(paths: Sequence[Path]) -> list[RunRecord]:
    """Raises as `read_run`, and UsageError for fewer than two runs, too many, or one that is named twice."""
    if not 2 <= len(paths) <= len(RUN_LETTERS):
        raise UsageError(f"compare takes 2 to {len(RUN_LETTERS)} runs' folders, not {len(paths)}")
    resolved: set[Path] = set()
    for path in paths:
        if path.resolve() in resolved:
            raise UsageError(f"{printable(path)} is named twice: give each run's folder once")
        resolved.add(path.resolve())
    return [read_run(path) for path in paths]


def read_run(path: Path) -> RunRecord:
    """Raises UserError for a missing or damaged run, UsageError for another format version."""
    file = path / "run.json"
    run_file = read_run_folder(path)
    if run_file is None:
        raise UserError(f"cannot read {printable(file)} (No such file or directory): expected a run's folder")
    if run_file.run.data.content is None:
        raise UserError(f"{printable(file)} holds a run that was never started: its data has not been opened")
    lines = _read_lines(path / "metrics.jsonl", MetricLine)
    seconds = sum(line.seconds for line in _read_lines(path / "timing.jsonl", _TimingLine, REMOVE_TIMING))
    record = RunRecord(path, run_file, lines, seconds, None)
    predictions_file = path / predictions.FILE
    if record.test is None or not predictions_file.exists():
        return record
    masks = None
    stored_correctness = None
    if record.task.name == "segmentation":
        masks = read_mask_predictions(predictions_file)
        predicted_run = masks[1].run
    else:
        stored = predictions.read_predictions(predictions_file)
        predicted_run = stored.metadata.run if stored.metadata else ""
        stored_correctness = correctness(stored) if stored.metadata else None
    if predicted_run != run_file.run.id:
        raise UserError(
            f"{printable(predictions_file)} belongs to another run than {printable(file)}: train the run "
            "again"
        )
    return RunRecord(path, run_file, lines, seconds, stored_correctness, masks)


def _read_lines(file: Path, type_: type[T], remedy: str = RESTORE) -> list[T]:
    """The lines of a file, none where it is missing. The last may be torn: a process may be writing it."""
    decoder = msgspec.json.Decoder(type_)
    lines: list[T] = []
    if not file.exists():
        return []
    try:
        lines.extend(decoder.decode(line) for line in read_json_lines(file, remedy))
    except (msgspec.DecodeError, RecursionError) as error:
        raise UserError(f"{printable(file)} is damaged at line {len(lines) + 1}: {error}") from None
    return lines


def compare_runs(records: Sequence[RunRecord]) -> dict[str, Any]:
    """The document of `compare`, without the plot; accuracies in percent, runs by their position in
    `records`.

    `runs`; `differences` between their records, by path; `paired`, every two with predictions for the same
    samples (see evaluation/significance.py); `unpaired`, runs or pairs of them with the reason; `seeds`, mean
    and standard deviation of the test top-1 of three or more runs that differ in their seed alone.
    """
    paired: list[dict[str, Any]] = []
    unpaired: list[dict[str, Any]] = []
    for position, record in enumerate(records):
        if record.correctness is None and record.masks is None:
            unpaired.append({"runs": [position], "reason": _missing_predictions(record)})
    for (i, a), (j, b) in combinations(enumerate(records), 2):
        pair = _pair(a, b)
        if isinstance(pair, str):
            unpaired.append({"runs": [i, j], "reason": pair})
        elif pair is not None:
            paired.append({"runs": [i, j]} | pair)
    return {
        "runs": [_summary(record) for record in records],
        "differences": differences([record.run_file for record in records]),
        "paired": paired,
        "unpaired": unpaired,
        "seeds": _seeds(records),
    }


def _pair(a: RunRecord, b: RunRecord) -> dict[str, Any] | str | None:
    """The comparison of two runs, or why they cannot be paired; None where one has no predictions."""
    if a.correctness is not None and b.correctness is not None:
        return pairing_problem(a.correctness, b.correctness) or paired_comparison(
            a.correctness, b.correctness
        )
    if a.masks is not None and b.masks is not None:
        (first, metadata), (second, other_metadata) = a.masks, b.masks
        return mask_pairing_problem(metadata, other_metadata) or paired_mask_comparison(first, second)
    if a.test is None or b.test is None or a.task is b.task:
        return None
    return "one labels pixels, the other classifies images"


def differences(run_files: Sequence[RunFile]) -> list[dict[str, Any]]:
    """The fields in which runs or environments differ: `{"path": "run.recipe.optimizer.lr", "values": [one a
    run]}`.

    A value is None where a record does not have the field. Fields that only describe others are left out.
    """
    documents = [msgspec.to_builtins(run_file) for run_file in run_files]
    for document in documents:
        for record, names in zip((document["run"], document["run"]["recipe"]), DESCRIPTIONS, strict=True):
            for name in names:
                record.pop(name, None)
    return _differences(documents, "")


def _differences(values: list[Any], path: str) -> list[dict[str, Any]]:
    if all(value == values[0] for value in values):
        return []
    prefix = f"{path}." if path else ""
    rows: list[dict[str, Any]] = []
    if all(value is None or isinstance(value, dict) for value in values):
        for key in dict.fromkeys(key for value in values for key in value or ()):
            rows += _differences([(value or {}).get(key) for value in values], f"{prefix}{key}")
    elif _are_record_lists(values):
        for position, items in enumerate(zip(*values, strict=True)):
            rows += _differences(list(items), f"{prefix}{position}")
    else:
        rows.append({"path": path, "values": values})
    return rows


def _are_record_lists(values: list[Any]) -> bool:
    """Whether these are lists of records that correspond by their position, as augmentations do."""
    return all(
        isinstance(value, list | tuple)
        and len(value) == len(values[0])
        and all(isinstance(item, dict) for item in value)
        for value in values
    )


def _summary(record: RunRecord) -> dict[str, Any]:
    """`score` says which score the keys val_, best_val_ and test_ have."""
    score = record.task.score
    validation = [line.score for line in record.scores("val") if line.score is not None]
    test = record.test or MetricLine(record.step, 0.0)
    interval = None
    if test.top1 is not None and test.n:
        interval = metrics.interval(round(test.top1 * test.n / 100), test.n)
    if record.masks is not None:
        interval = bootstrap_interval(record.masks[0].confusions)
    return {
        "out": str(record.path),
        "run_id": record.run.id,
        "finished": record.test is not None,
        "step": record.step,
        "steps": record.run.steps,
        "score": score,
        f"val_{score}": validation[-1] if validation else None,
        f"best_val_{score}": max(validation, default=None),
        f"test_{score}": test.score,
        "test_interval": interval,
        "test_loss": test.loss,
        "n": test.n,
        "seconds": record.seconds,
    }


def _missing_predictions(record: RunRecord) -> str:
    return "not finished" if record.test is None else f"no {predictions.FILE}"


def _seeds(records: Sequence[RunRecord]) -> list[dict[str, Any]]:
    """Groups of three or more finished runs that differ in their seed alone, each run once."""
    groups: dict[str, dict[int, tuple[int, float]]] = {}
    for position, record in enumerate(records):
        if record.test is not None and record.test.score is not None:
            group = groups.setdefault(record.run.replace(seed=0).id, {})
            group.setdefault(record.run.seed, (position, record.test.score))
    rows = []
    for group in groups.values():
        if len(group) >= 3:
            positions, scores = zip(*group.values(), strict=True)
            score = records[positions[0]].task.score
            rows.append(
                {
                    "runs": [*positions],
                    f"{score}_mean": statistics.mean(scores),
                    f"{score}_deviation": statistics.stdev(scores),
                }
            )
    return rows


def plot_path(records: Sequence[RunRecord]) -> Path:
    """`compare-ID8-ID8.png` beside the first run's folder; at most eight runs are in the name."""
    folder = Path(os.path.normpath(records[0].path / ".."))
    return folder / f"compare-{'-'.join(record.run.id[:8] for record in records[:8])}.png"
