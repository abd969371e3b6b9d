"""What a training leaves: written once it has been tested, read when it is run again."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from convatlas.classifier import FORMAT, Classifier, ClassifierMetadata, write_model_file
from convatlas.classifier.model_file import read_model_file
from convatlas.classifier.training_images import FILE_NAME, read_training_images, write_training_images
from convatlas.errors import UserError, printable
from convatlas.evaluation.predictions import FILE as PREDICTIONS
from convatlas.storage.json_lines import read_json_lines
from convatlas.training.classification_result import CLASSIFICATION_RESULT
from convatlas.training.context import TrainContext
from convatlas.training.report_figures import validations
from convatlas.training.run import Run, RunFile
from convatlas.training.run_folder import RunFolder
from convatlas.training.segmentation_result import SEGMENTATION_RESULT
from convatlas.training.task_result import TaskResult
from convatlas.training.tasks import task_of

REPORT = "report.md"
TASK_RESULTS: dict[str, TaskResult] = {
    "classification": CLASSIFICATION_RESULT,
    "segmentation": SEGMENTATION_RESULT,
}
SCORES = ("top1", "mean_iou")  # that a result shows


@dataclass(frozen=True)
class Result:
    """What a training left: its folder, its id, the metrics of validation and test, the report."""

    out: Path
    run_id: str
    metrics: dict[str, Any]
    report: Path

    def __repr__(self) -> str:
        scores = [f"{name} {value:.2f}" for name, value in self.metrics.items() if name.endswith(SCORES)]
        return f"<Result of run {self.run_id[:8]}: {', '.join(scores)}; {printable(self.report)}>"


def test_score(run: Run, metrics: dict[str, Any]) -> str:
    """The score of the test split in words."""
    task = task_of(run)
    return f"test {task.score_label} {metrics[f'test_{task.score}']:.2f} %"


def write_result(ctx: TrainContext, predictions: Any) -> Result:
    """Write the test predictions, the classifier and the report; rank 0 alone does."""
    run = ctx.run
    folder = ctx.folder.path
    task_result = TASK_RESULTS[ctx.task.name]
    # the predictions first: the log's test line says that the run has ended
    predictions_file = folder / PREDICTIONS
    predictions_file.parent.mkdir(exist_ok=True)
    task_result.write_predictions(predictions_file, predictions, run.id, ctx.dataset)
    train_hashes = ctx.dataset.splits["train"].content_hashes
    write_training_images(folder / FILE_NAME, train_hashes, run.id, run.data.name)
    results = task_result.document(predictions, ctx.dataset.classes)
    lines = [line for line in ctx.log.lines() if line.get("split") != "test"]
    scores = {key: results[key] for key in task_result.logged}
    ctx.log.log(step=run.steps, epoch=run.steps / run.steps_per_epoch, split="test", **scores)
    ctx.log.sync()
    val_score = {f"val_{ctx.task.score}": float(validations(lines)[-1][ctx.task.score])}
    metrics = val_score | task_result.metrics(results)
    eval_model = ctx.objective.eval_model
    metadata = _metadata(ctx, metrics)
    write_model_file(ctx.folder.model_file, metadata, eval_model, ctx.objective.normalizer)
    classifier = Classifier(metadata, eval_model, ctx.objective.normalizer, ctx.runtime)
    page = task_result.write_report(ctx, lines, predictions, results, classifier)
    low, high = results[f"{ctx.task.score}_interval"]
    ctx.display.say(
        f"{test_score(run, metrics)} (95 % interval {low:.2f} to {high:.2f}, {results['n']:,} images); "
        f"report {page}"
    )
    ctx.display.say(task_result.sentence(results))
    return Result(folder, run.id, metrics, page)


def _metadata(ctx: TrainContext, metrics: dict[str, Any]) -> ClassifierMetadata:
    run = ctx.run
    provenance: dict[str, Any] = {
        "run": run.id,
        "data": run.data.name,
        "data_sha256": ctx.dataset.sha256,
        "recipe": run.recipe.name,
        "seed": run.seed,
    }
    if run.recipe.crop:  # dense evaluation uses its scale
        provenance["crop"] = msgspec.to_builtins(run.recipe.crop)
    return ClassifierMetadata(
        format=FORMAT,
        network=run.model,
        classes=ctx.dataset.classes,
        preprocessing=run.content.preprocessing,
        precision="fp32" if run.precision == "auto" else run.precision,
        batch=run.evaluation_batch,
        provenance=provenance | dict(ctx.folder.run_file.environment),
        metrics=metrics,
    )


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
        predicted_run = TASK_RESULTS[task_of(run).name].read_run_id(path / PREDICTIONS)
        if read_training_images(path / FILE_NAME, run.id) is None or not (path / REPORT).is_file():
            return None
    except (OSError, UserError):
        return None
    if {predicted_run, metadata.provenance.get("run")} != {run.id}:
        return None
    return Result(path, run.id, metadata.metrics, path / REPORT)
