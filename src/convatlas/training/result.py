"""What a training leaves."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from convatlas.classifier.model_file import read_model_file
from convatlas.classifier.training_images import FILE_NAME, read_training_images
from convatlas.errors import UserError
from convatlas.evaluation import predictions
from convatlas.storage.json_lines import read_json_lines
from convatlas.training.run import RunFile
from convatlas.training.run_folder import RunFolder

REPORT = "report.md"


@dataclass(frozen=True)
class Result:
    """What a training left: its folder, its id, the metrics of validation and test, the report."""

    out: Path
    run_id: str
    metrics: dict[str, Any]
    report: Path


def read_result(path: Path, run_file: RunFile) -> Result | None:
    """The result of a run that has ended; None where it has not, or one of its files is missing or damaged,
    which continuing the run makes again."""
    folder = RunFolder(path, run_file)
    run = run_file.run
    try:
        lines = list(read_json_lines(folder.metrics_file))
        last = msgspec.json.decode(lines[-1]) if lines else {}
        if last.get("split") != "test" or "event" in last or last["step"] != run.steps:
            return None
        metadata = read_model_file(folder.model_file).metadata
        stored = predictions.read_predictions(path / predictions.FILE).metadata
        if read_training_images(path / FILE_NAME) is None or not (path / REPORT).is_file():
            return None
    except (OSError, UserError):
        return None
    if stored is None or {stored.run, metadata.provenance.get("run")} != {run.id}:
        return None
    return Result(path, run.id, metadata.metrics, path / REPORT)
