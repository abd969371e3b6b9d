"""`train`: complete the run, open its folder, fit, evaluate on the test split once, save the classifier, report."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch

from convatlas import analysis, models
from convatlas import classifier as classifiers
from convatlas.data import Dataset
from convatlas.data.loading.eval_batches import EvalBatches
from convatlas.data.loading.loader import default_num_workers
from convatlas.data.loading.train_batches import TrainBatches
from convatlas.errors import printable
from convatlas.evaluation import predictions
from convatlas.evaluation.predict import Predictions
from convatlas.evaluation.results import results_document
from convatlas.layers.batch_norm import convert_sync_batchnorm
from convatlas.layers.init import glorot, he
from convatlas.runtime.compilation import should_compile
from convatlas.runtime.device import select_device
from convatlas.runtime.distributed.ranks import Ranks
from convatlas.runtime.distributed.rendezvous import init_ranks
from convatlas.runtime.memory import tune_malloc
from convatlas.runtime.runtime import Runtime
from convatlas.runtime.signals import stop_on_signals
from convatlas.training import loop, report
from convatlas.training import run as runs
from convatlas.training.objective import Objective, freeze
from convatlas.training.planning.memory_guard import MemoryGuard
from convatlas.training.pretrained import load_pretrained
from convatlas.training.progress import NullDisplay, ProgressDisplay, banner
from convatlas.training.rank_checks import check_batch_divides, check_ranks_agree
from convatlas.training.resolve import resolve_run
from convatlas.training.run import Run
from convatlas.training.run_folder import RunFolder, open_folder
from convatlas.training.unreadable import UnreadableImageLog


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
    display: ProgressDisplay | None = None,
) -> Result:
    """Train, or continue where the folder is. `out` defaults to runs/MODEL-DATA-ID8; `workers` load data (None: as many as it takes).

    Under torchrun this process is one of several (`convatlas.runtime.distributed.rendezvous.join`); rank 0 alone writes and speaks.
    Raises UsageError for what does not fit together, before anything is written; UserError for a job that fails; Stopped when a
    signal asked it to stop (saved).
    """
    tune_malloc()
    with init_ranks() as ranks:
        return _train(
            run,
            out,
            select_device(device, ranks),
            workers,
            force,
            (display or ProgressDisplay()) if ranks.rank == 0 else NullDisplay(),
            ranks,
        )


def _train(
    run: Run, out: str | Path | None, device: torch.device, workers: int | None, force: bool, display: ProgressDisplay, ranks: Ranks
) -> Result:
    run, dataset = resolve_run(run, device, force)
    check_batch_divides(run, ranks)
    path = Path(out) if out else default_folder(run)
    with torch.device("meta"):
        cost = analysis.analyze(models.build(run.model), (dataset.channels, *run.content.preprocessing.size))
    compiling = ranks.run_on_main(lambda: _decide_to_compile(run, device, path, cost.macs))
    runtime = Runtime(device, "fp32" if run.precision == "auto" else run.precision, compiling, ranks=ranks)
    environment = dict(runtime.environment())
    check_ranks_agree(run, environment, ranks, force)
    room = MemoryGuard.of(run, runtime)
    if not force:
        room.check()
    with open_folder(path, run, environment, force, ranks=ranks) as folder, stop_on_signals(wait_for_ranks=ranks.world_size > 1) as stop:
        display.key_values(banner(run, environment, runtime.describe(), cost, run.notes, str(path)))
        if runtime.compile:
            display.say("  compiling at the first step: about a minute")
        recipe, objective = run.recipe, build_objective(run, dataset, ranks)
        runtime.to_device(objective)
        geometry, mine = run.content.preprocessing, (ranks.rank, ranks.world_size)
        data = TrainBatches(dataset.splits["train"], geometry, recipe.augment, recipe.batch, run.seed, recipe.crop, *mine)
        validation = EvalBatches(dataset.splits["val"], geometry, run.evaluation_batch, *mine)
        workers = default_num_workers(dataset.splits["train"], ranks) if workers is None else workers
        unread = UnreadableImageLog(dataset, folder, display)
        test = EvalBatches(dataset.splits["test"], geometry, run.evaluation_batch, *mine)
        with room.explain_oom(objective):
            loop.fit(run, objective, data, validation, runtime, folder, unread, display, stop, workers)
            found = loop.evaluate_split(objective, test, runtime, workers)
        unread.record(run.steps, "test", found.unreadable)
        unread.quarantine()
        return ranks.run_on_main(lambda: finish(run, dataset, objective, data, test, found, runtime, folder, display))


def build_objective(run: Run, dataset: Dataset, ranks: Ranks) -> Objective:
    """The network with its first weights, and what is trained of it."""
    recipe, geometry = run.recipe, run.content.preprocessing
    torch.manual_seed(run.seed)
    model = models.build(run.model)
    if recipe.initialise != "network's":
        model.apply({"glorot": glorot, "he": he}[recipe.initialise])
    donor = load_pretrained(run.initial, model, run.content.classes) if run.initial else None
    if donor is not None and run.initial and run.initial.standardiser == "theirs":
        standardiser = donor.normalizer
    else:
        standardiser = recipe.standardise.fit(dataset.splits["train"].images, geometry)
    if run.sync_batch_norm:
        convert_sync_batchnorm(model, ranks)
    return Objective(model, standardiser, recipe.loss, recipe.auxiliary, recipe.average, freeze(run, model))


def default_folder(run: Run) -> Path:
    data = printable(run.data.name).removeprefix("folder:").rstrip("/").rsplit("/", 1)[-1]
    return Path("runs") / f"{run.model.name}-{data}-{run.id[:8]}"


def _decide_to_compile(run: Run, device: torch.device, path: Path, macs: int) -> bool:
    """Taken once, when a run starts; one that is continued keeps the decision, since the bits depend on it."""
    if run.compile != "auto":
        return run.compile
    if (path / "run.json").exists():
        stored = runs.read_run_file((path / "run.json").read_bytes(), str(path / "run.json"))
        return bool(stored.environment.get("compile"))
    return should_compile(device, 3.0 * macs * run.recipe.batch * run.steps)


def finish(
    run: Run,
    dataset: Dataset,
    objective: Objective,
    data: TrainBatches,
    test: EvalBatches,
    found: Predictions,
    runtime: Runtime,
    folder: RunFolder,
    display: ProgressDisplay,
) -> Result:
    predictions.write_run_predictions(folder.path / predictions.FILE, found, run.id, dataset)  # before the log says that the run has ended
    result = results_document(found.logits, found.labels, dataset.classes)
    lines = [line for line in folder.lines() if line["split"] != "test"]
    scores = {key: result[key] for key in ("top1", "top5", "loss", "n")}
    folder.log(step=run.steps, epoch=run.steps / run.steps_per_epoch, split="test", **scores)
    folder.metrics.sync()
    metrics = {"val_top1": report.last_validation(lines), "test_top1": result["top1"], "test_loss": result["loss"], "test_n": result["n"]}
    card = classifiers.ClassifierMetadata(
        format=classifiers.FORMAT,
        network=run.model,
        classes=dataset.classes,
        preprocessing=run.content.preprocessing,
        precision="fp32" if run.precision == "auto" else run.precision,
        batch=run.evaluation_batch,
        provenance={"run": run.id, "data": run.data.name, "recipe": run.recipe.name, "seed": run.seed}
        | ({"crop": msgspec.to_builtins(run.recipe.crop)} if run.recipe.crop else {})  # dense evaluation asks at which scale
        | dict(folder.run_file.environment),
        metrics=metrics,
    )
    classifiers.write_model_file(folder.path / "model.safetensors", card, objective.eval_model, objective.normalizer)
    first = data[0]
    assert not isinstance(first, Exception)
    batch = data.augmented(first.images, first.indices, 0), first.targets
    classifier = classifiers.Classifier(card, objective.eval_model, objective.normalizer, runtime)
    page = report.write(folder.path, run, lines, batch, test, found, result, classifier)
    low, high = result["top1_interval"]
    display.say(f"test top-1 {result['top1']:.2f} % (95 % interval {low:.2f} to {high:.2f}, {result['n']:,} images); report {page}")
    return Result(folder.path, run.id, metrics, page)
