"""What a training leaves: written once it has been tested, read when it is run again."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from convatlas.classifier import FORMAT, Classifier, ClassifierMetadata, write_model_file
from convatlas.classifier.model_file import read_model_file
from convatlas.classifier.training_images import FILE_NAME, read_training_images, write_training_images
from convatlas.errors import UserError, printable
from convatlas.evaluation import predictions as stored_predictions
from convatlas.evaluation.metrics import score_samples
from convatlas.evaluation.predictions import Predictions
from convatlas.evaluation.results import majority_sentence, results_document
from convatlas.storage.json_lines import read_json_lines
from convatlas.training import report
from convatlas.training.context import TrainContext
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

    def __repr__(self) -> str:
        scores = [f"{name} {value:.2f}" for name, value in self.metrics.items() if name.endswith("top1")]
        return f"<Result of run {self.run_id[:8]}: {', '.join(scores)}; {printable(self.report)}>"


def write_result(ctx: TrainContext, predictions: Predictions) -> Result:
    """Write the test predictions, the classifier and the report; rank 0 alone does."""
    run = ctx.run
    folder = ctx.folder.path
    # the predictions first: the log's test line says that the run has ended
    predictions_file = folder / stored_predictions.FILE
    predictions_file.parent.mkdir(exist_ok=True)
    stored_predictions.write_run_predictions(predictions_file, predictions, run.id, ctx.dataset)
    train_hashes = ctx.dataset.splits["train"].content_hashes
    write_training_images(folder / FILE_NAME, train_hashes, run.id, run.data.name)
    samples = score_samples(predictions.logits, predictions.labels)
    results = results_document(samples, ctx.dataset.classes)
    lines = [line for line in ctx.log.lines() if line.get("split") != "test"]
    scores = {key: results[key] for key in ("top1", "top5", "loss", "n")}
    ctx.log.log(step=run.steps, epoch=run.steps / run.steps_per_epoch, split="test", **scores)
    ctx.log.sync()
    metrics = {
        "val_top1": report.last_validation(lines),
        "test_top1": results["top1"],
        "test_loss": results["loss"],
        "test_n": results["n"],
        "test_balanced_accuracy": results["balanced_accuracy"],
        "test_macro_f1": results["macro_f1"],
        "test_majority_share": results["majority_class"]["share"],
    }
    eval_model = ctx.objective.eval_model
    metadata = _metadata(ctx, metrics)
    write_model_file(ctx.folder.model_file, metadata, eval_model, ctx.objective.normalizer)
    classifier = Classifier(metadata, eval_model, ctx.objective.normalizer, ctx.runtime)
    page = report.write_report(ctx, lines, predictions, samples, results, classifier)
    low, high = results["top1_interval"]
    ctx.display.say(
        f"test top-1 {results['top1']:.2f} % (95 % interval {low:.2f} to {high:.2f}, {results['n']:,} "
        f"images); report {page}"
    )
    ctx.display.say(
        f"balanced accuracy {results['balanced_accuracy']:.2f} %, macro F1 {results['macro_f1']:.2f} %; "
        f"{majority_sentence(results)}"
    )
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
        stored = stored_predictions.read_predictions(path / stored_predictions.FILE).metadata
        if read_training_images(path / FILE_NAME, run.id) is None or not (path / REPORT).is_file():
            return None
    except (OSError, UserError):
        return None
    if stored is None or {stored.run, metadata.provenance.get("run")} != {run.id}:
        return None
    return Result(path, run.id, metadata.metrics, path / REPORT)
