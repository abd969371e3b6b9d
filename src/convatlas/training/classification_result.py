"""The result of a training of a network that classifies images."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from convatlas.classifier import Classifier
from convatlas.data import Dataset
from convatlas.evaluation.metrics import score_samples
from convatlas.evaluation.predictions import Predictions, read_predictions, write_run_predictions
from convatlas.evaluation.results import majority_sentence, results_document
from convatlas.training import classification_report
from convatlas.training.context import TrainContext


class ClassificationResult:
    """The value of `task_result.TaskResult` for classification."""

    logged = ("top1", "top5", "loss", "n")

    def write_predictions(self, path: Path, predictions: Predictions, run: str, dataset: Dataset) -> None:
        write_run_predictions(path, predictions, run, dataset)

    def read_run_id(self, path: Path) -> str | None:
        metadata = read_predictions(path).metadata
        return metadata.run if metadata else None

    def document(self, predictions: Predictions, classes: Sequence[str]) -> dict[str, Any]:
        return results_document(score_samples(predictions.logits, predictions.labels), tuple(classes))

    def metrics(self, document: dict[str, Any]) -> dict[str, Any]:
        return {
            "test_top1": document["top1"],
            "test_loss": document["loss"],
            "test_n": document["n"],
            "test_balanced_accuracy": document["balanced_accuracy"],
            "test_macro_f1": document["macro_f1"],
            "test_majority_share": document["majority_class"]["share"],
        }

    def write_report(
        self,
        ctx: TrainContext,
        lines: list[dict[str, Any]],
        predictions: Predictions,
        document: dict[str, Any],
        classifier: Classifier,
    ) -> Path:
        return classification_report.write_report(ctx, lines, predictions, document, classifier)

    def sentence(self, document: dict[str, Any]) -> str:
        return (
            f"balanced accuracy {document['balanced_accuracy']:.2f} %, macro F1 "
            f"{document['macro_f1']:.2f} %; {majority_sentence(document)}"
        )


CLASSIFICATION_RESULT = ClassificationResult()
