"""What the result of a training is in a task: its predictions' file, its document, its report."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from convatlas.classifier import Classifier
from convatlas.data import Dataset
from convatlas.training.context import TrainContext


class TaskResult(Protocol):
    """`predictions` are those of the task (`data.task.Task.predictions`), on the test split."""

    @property
    def logged(self) -> Sequence[str]:
        """The keys of the document that the log has too."""

    def write_predictions(self, path: Path, predictions: Any, run: str, dataset: Dataset) -> None:
        """Write the predictions of the run with the id `run`. Raises OSError when the disk refuses."""

    def read_run_id(self, path: Path) -> str | None:
        """The id of the run whose predictions a file holds. Raises UserError for a file that is damaged."""

    def document(self, predictions: Any, classes: Sequence[str]) -> dict[str, Any]:
        """The part of the document of `eval` that follows from predictions."""

    def metrics(self, document: dict[str, Any]) -> dict[str, Any]:
        """The metrics of the test split, as `train --json` prints them."""

    def write_report(
        self,
        ctx: TrainContext,
        lines: list[dict[str, Any]],
        predictions: Any,
        document: dict[str, Any],
        classifier: Classifier,
    ) -> Path:
        """Write report.md and its figures into the run's folder; returns its path. `lines` are those of
        metrics.jsonl before the test."""

    def sentence(self, document: dict[str, Any]) -> str:
        """The other scores, and how they compare with a constant prediction."""
