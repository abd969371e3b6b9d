"""The result of a training of a network that labels pixels."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from convatlas.classifier import Classifier
from convatlas.data import Dataset
from convatlas.evaluation.mask_predictions import read_mask_predictions, write_mask_predictions
from convatlas.evaluation.predictions import run_metadata
from convatlas.segmentation.results import baseline_sentence, results_document
from convatlas.segmentation.task import MaskPredictions
from convatlas.training import segmentation_report
from convatlas.training.context import TrainContext

SCORES = ("mean_iou", "pixel_accuracy", "mean_accuracy", "frequency_weighted_iou")


class SegmentationResult:
    """The value of `task_result.TaskResult` for segmentation."""

    logged = (*SCORES, "loss", "n")

    def write_predictions(self, path: Path, predictions: MaskPredictions, run: str, dataset: Dataset) -> None:
        metadata = run_metadata(run, dataset, "test", "whole")
        write_mask_predictions(path, replace(predictions, unreadable=()), metadata)  # the log lists those

    def read_run_id(self, path: Path) -> str | None:
        _, metadata = read_mask_predictions(path)
        return metadata.run

    def document(self, predictions: MaskPredictions, classes: Sequence[str]) -> dict[str, Any]:
        return results_document(predictions, classes)

    def metrics(self, document: dict[str, Any]) -> dict[str, Any]:
        return {f"test_{key}": document[key] for key in self.logged}

    def write_report(
        self,
        ctx: TrainContext,
        lines: list[dict[str, Any]],
        predictions: MaskPredictions,
        document: dict[str, Any],
        classifier: Classifier,
    ) -> Path:
        return segmentation_report.write_report(ctx, lines, predictions, document, classifier)

    def sentence(self, document: dict[str, Any]) -> str:
        return (
            f"pixel accuracy {document['pixel_accuracy']:.2f} %, mean accuracy "
            f"{document['mean_accuracy']:.2f} %, frequency-weighted IU "
            f"{document['frequency_weighted_iou']:.2f} %; {baseline_sentence(document)}"
        )


SEGMENTATION_RESULT = SegmentationResult()
