"""`train`: complete the run, open its folder, fit, evaluate on the test split once, save the classifier, report."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from convatlas import analysis, models
from convatlas import classifier as classifiers
from convatlas.data import Dataset
from convatlas.data.loader import Fixed, Training, workers_for
from convatlas.data.preprocessing import Standardiser
from convatlas.errors import printable
from convatlas.evaluation.protocol import document, logits_of
from convatlas.runtime.compilation import worth_compiling
from convatlas.runtime.device import Runtime, pick_device
from convatlas.runtime.stopping import stop_on_signals
from convatlas.training import loop, report
from convatlas.training.display import Display, banner
from convatlas.training.folder import RunFolder, open_folder
from convatlas.training.objective import Objective
from convatlas.training.run import Run


@dataclass(frozen=True)
class Result:
    """What a training left: its folder, its id, the metrics of validation and test, the report."""

    out: Path
    run_id: str
    metrics: dict[str, Any]
    report: Path


def train(
    run: Run,
    out: str | Path | None = None,
    device: str = "auto",
    workers: int | None = None,
    force: bool = False,
    display: Display | None = None,
) -> Result:
    """Train, or continue where the folder is. `out` defaults to runs/MODEL-DATA-ID8; `workers` load data (None: as many as it takes).

    Raises UsageError for what does not fit together, before anything is written; UserError for a job that fails; Stopped when a
    signal asked it to stop (saved).
    """
    display = display or Display()
    run, dataset = run.complete(pick_device(device))
    path = Path(out) if out else default_folder(run)
    runtime = _runtime(run, device, path)
    environment = dict(runtime.environment())
    with torch.device("meta"):
        cost = analysis.cost(models.build(run.model), (dataset.channels, *run.content.preprocessing.size))
    with open_folder(path, run, environment, force) as folder, stop_on_signals() as stop:
        display.pairs(banner(run, environment, runtime.describe(), cost, run.notes, str(path)))
        standardiser = run.recipe.standardise.measure(dataset.splits["train"].images, run.content.preprocessing)
        if runtime.compile:
            display.say("  compiling at the first step: about a minute")
        torch.manual_seed(run.seed)
        objective = Objective(models.build(run.model), standardiser, run.recipe.loss)
        runtime.place(objective)
        data = Training(dataset.splits["train"], run.content.preprocessing, run.recipe.augment, run.recipe.batch, run.seed)
        validation = Fixed(dataset.splits["val"], run.content.preprocessing, run.evaluation_batch)
        loaders = workers_for(dataset.splits["train"]) if workers is None else workers
        loop.fit(run, objective, data, validation, runtime, folder, display, stop, loaders)
        return _finish(run, dataset, objective, standardiser, data, runtime, folder, display)


def default_folder(run: Run) -> Path:
    data = printable(run.data.name).removeprefix("folder:").rstrip("/").rsplit("/", 1)[-1]
    return Path("runs") / f"{run.model.name}-{data}-{run.id[:8]}"


def _runtime(run: Run, device: str, path: Path) -> Runtime:
    import msgspec

    chosen = pick_device(device)
    decided = run.compile
    if decided == "auto":  # taken once, at the start; a resumed run keeps the decision
        try:
            decided = bool(msgspec.json.decode((path / "run.json").read_bytes())["environment"]["compile"])
        except (OSError, KeyError, TypeError, msgspec.DecodeError):
            with torch.device("meta"):
                shape = (run.content.preprocessing.channels, *run.content.preprocessing.size)
                macs = analysis.cost(models.build(run.model), shape).macs
            decided = worth_compiling(chosen, 3.0 * macs * run.recipe.batch * run.steps)
    return Runtime(chosen, "fp32" if run.precision == "auto" else run.precision, compile=bool(decided))


def _finish(
    run: Run,
    dataset: Dataset,
    objective: Objective,
    standardiser: Standardiser,
    data: Training,
    runtime: Runtime,
    folder: RunFolder,
    display: Display,
) -> Result:
    test = Fixed(dataset.splits["test"], run.content.preprocessing, run.evaluation_batch)
    objective.eval()
    with runtime.autocast():
        logits = logits_of(objective.logits, test, runtime.device)
    result = document(logits, test.split.labels, dataset.classes)
    lines = [line for line in folder.lines() if line["split"] != "test"]
    scores = {key: result[key] for key in ("top1", "top5", "loss", "n")}
    folder.log(step=run.steps, epoch=run.steps / run.steps_per_epoch, split="test", **scores)
    folder.metrics.sync()
    metrics = {"val_top1": report.last_validation(lines), "test_top1": result["top1"], "test_loss": result["loss"], "test_n": result["n"]}
    card = classifiers.Card(
        format=classifiers.FORMAT,
        network=run.model,
        classes=dataset.classes,
        preprocessing=run.content.preprocessing,
        precision="fp32" if run.precision == "auto" else run.precision,
        batch=run.evaluation_batch,
        provenance={"run": run.id, "data": run.data.name, "recipe": run.recipe.name, "seed": run.seed} | dict(folder.stored.environment),
        metrics=metrics,
    )
    classifiers.save(folder.path / "model.safetensors", card, objective.model, standardiser)
    first = data[0]
    assert not isinstance(first, Exception)
    page = report.write(folder.path, run, lines, first, test.split, logits, result)
    low, high = result["top1_interval"]
    display.say(f"test top-1 {result['top1']:.2f} % (95 % interval {low:.2f} to {high:.2f}, {result['n']:,} images); report {page}")
    return Result(folder.path, run.id, metrics, page)
