"""`train`: resolve the run, fit, evaluate on the test split once, save the classifier, report."""

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch

from convatlas import analysis, models
from convatlas.data.loading.loader import default_num_workers
from convatlas.errors import MissingDataError, UsageError, UserError, printable, wrong_type
from convatlas.layers.batch_norm import convert_sync_batchnorm
from convatlas.layers.fused_batch_norm import choose_kernels
from convatlas.layers.init import glorot_uniform, he_normal
from convatlas.runtime.compilation import should_compile
from convatlas.runtime.device import select_device
from convatlas.runtime.distributed.ranks import SINGLE_PROCESS, Ranks
from convatlas.runtime.distributed.rendezvous import init_ranks
from convatlas.runtime.memory import tune_malloc
from convatlas.runtime.runtime import Runtime
from convatlas.runtime.signals import StopRequest, explain_stop, stop_on_signals
from convatlas.storage.regular_file import check_no_links
from convatlas.training.batches import eval_batches, train_batches
from convatlas.training.checkpoint import CheckpointManager
from convatlas.training.context import TrainContext
from convatlas.training.loop import fit
from convatlas.training.metrics_log import FileMetricsLog, MetricsLog
from convatlas.training.objective import Objective, class_weights, freeze, prepare_for_training
from convatlas.training.planning.memory_guard import MemoryGuard
from convatlas.training.planning.micro_batches import check_micro_batches
from convatlas.training.pretrained import PretrainedFile, load_pretrained
from convatlas.training.progress import NullDisplay, ProgressDisplay, banner_rows
from convatlas.training.rank_checks import check_batch_divides, check_ranks_agree
from convatlas.training.resolve import ResolvedRun, resolve_run
from convatlas.training.result import Result, read_result, test_score, write_result
from convatlas.training.run import Run, RunFile
from convatlas.training.run_folder import RunFolder, open_run_folder, read_run_folder
from convatlas.training.tasks import task_of
from convatlas.training.tensorboard_log import TensorBoardLog, check_installed, tensorboard_command
from convatlas.training.unreadable import UnreadableImageLog
from convatlas.training.validation import evaluate_split
from convatlas.training.warnings import run_warnings

T = TypeVar("T")
LogFormat = Literal["tensorboard"]


def train(
    run: Run,
    out: str | Path | None = None,
    device: str = "auto",
    workers: int | None = None,
    force: bool = False,
    display: ProgressDisplay | None = None,
    weights: PretrainedFile | None = None,
    log: LogFormat | None = None,
) -> Result:
    """Train, or continue where the folder is; a run that has ended is left as it is.

    `out` defaults to runs/MODEL-DATA-ID8; `workers` are the processes that load data (None: as many as it
    takes). `weights`: the file of `run.pretrained`, where it has been read. `log`: where the figures of the
    log are written as well. Under torchrun this process is one of several
    (`convatlas.runtime.distributed.rendezvous.init_ranks`); rank 0 alone writes and shows anything.

    Raises UsageError for what does not fit together, before anything is written; UserError for a job that
    fails; StoppedBySignal when a signal stopped it (saved).
    """
    if not isinstance(run, Run):
        raise wrong_type("the argument of train", run, "a run, as in ca.train(ca.Run(model=..., data=...))")
    tune_malloc()
    with init_ranks() as ranks:
        shown = (display or ProgressDisplay()) if ranks.rank == 0 else NullDisplay()
        resolved = resolve_run(run, select_device(device, ranks), force, weights)
        path = Path(out) if out else default_folder(resolved.run)
        existing = ranks.run_on_main(lambda: read_run_folder(path))
        if existing is not None and existing.run == resolved.run:
            result = _finished(path, existing, shown, ranks)
            if result is not None:
                return result
        torch_device = select_device(device, ranks)
        return _train(resolved, path, existing, torch_device, workers, force, shown, ranks, log, write_result)


def resume(
    folder: str | Path,
    device: str = "auto",
    workers: int | None = None,
    force: bool = False,
    display: ProgressDisplay | None = None,
    log: LogFormat | None = None,
    data: str | None = None,
) -> Result:
    """Continue the run in a folder; one that has ended is left as it is. `data`: where the run's data are
    now, if they were moved.

    Raises UsageError for a folder without a run, and as `train`.
    """
    tune_malloc()
    path = Path(folder)
    with init_ranks() as ranks:
        shown = (display or ProgressDisplay()) if ranks.rank == 0 else NullDisplay()
        existing = ranks.run_on_main(lambda: read_run_folder(path))
        if existing is None:
            raise UsageError(f"{printable(path)} holds no run.json: expected a run's folder")
        result = _finished(path, existing, shown, ranks)
        if result is not None:
            return result
        torch_device = select_device(device, ranks)
        try:
            resolved = resolve_run(existing.run, torch_device, force, data=data)
        except MissingDataError as error:
            raise UserError(
                f"{error}; if the run's data were moved, say where they are with --data"
            ) from None
        return _train(resolved, path, existing, torch_device, workers, force, shown, ranks, log, write_result)


def train_and_finish(
    run: Run,
    out: Path,
    finish: Callable[[TrainContext, Any], T],
    device: str = "auto",
    display: ProgressDisplay | None = None,
) -> T:
    """Train, or continue where the folder is, in this process alone; what `finish` makes of the predictions
    on the test split takes the place of classifier and report. Raises as `train`."""
    tune_malloc()
    resolved = resolve_run(run, select_device(device))
    shown = display or ProgressDisplay()
    existing = read_run_folder(out)
    torch_device = select_device(device)
    return _train(resolved, out, existing, torch_device, None, False, shown, SINGLE_PROCESS, None, finish)


def _finished(path: Path, run_file: RunFile, display: ProgressDisplay, ranks: Ranks) -> Result | None:
    """The result of a run that has ended, of which nothing is written again; None for another."""

    def read() -> Result | None:
        check_no_links(path)
        return read_result(path, run_file)

    result = ranks.run_on_main(read)
    if result is not None:
        display.say(
            f"{path} has ended before, and nothing in it is changed: "
            f"{test_score(run_file.run, result.metrics)}; report {result.report}"
        )
    return result


def default_folder(run: Run) -> Path:
    data = printable(run.data.name).removeprefix("folder:").rstrip("/").rsplit("/", 1)[-1]
    return Path("runs") / f"{run.model.name.replace(':', '.')}-{data}-{run.id[:8]}"


def _train(
    resolved: ResolvedRun,
    path: Path,
    existing: RunFile | None,
    device: torch.device,
    workers: int | None,
    force: bool,
    display: ProgressDisplay,
    ranks: Ranks,
    log_format: LogFormat | None,
    finish: Callable[[TrainContext, Any], T],
) -> T:
    run = resolved.run
    if log_format == "tensorboard":
        check_installed()
    check_batch_divides(run, ranks)
    check_micro_batches(run, resolved.network, ranks.world_size)
    cost = analysis.analyze(resolved.network, run.content.preprocessing.shape)
    precision = "fp32" if run.precision == "auto" else run.precision
    compiling = ranks.run_on_main(lambda: _decide_to_compile(run, device, existing, cost.macs))
    warnings = [*resolved.dataset.warnings, *run_warnings(run, resolved.dataset)]
    plain = existing is not None and existing.environment.get("kernels") == "torch"
    kernels = None
    if not plain and not compiling:
        kernels = choose_kernels(resolved.network, device, warnings.append, display.say)
    runtime = Runtime(
        device, precision, compiling, ranks=ranks, kernels=kernels.compiler if kernels else "torch"
    )
    run_file = RunFile(run=run, environment=dict(runtime.environment()))
    check_ranks_agree(run, run_file.environment, ranks, force)
    guard = MemoryGuard.of(run, runtime, resolved.network)
    if not force:
        guard.check()
    several_ranks = ranks.world_size > 1
    with open_run_folder(path, run_file, existing, force, ranks) as folder:
        passed_over = resolved.dataset.passed_over
        rows = banner_rows(
            run, run_file.environment, runtime.describe(), cost, str(path), warnings, passed_over
        )
        display.banner(rows, run.steps, runtime.compile)
        with _open_logs(folder, ranks, log_format) as (log, checkpoints):
            if log_format == "tensorboard":
                display.say(f"  to see the figures: {tensorboard_command(folder)}")
            objective = build_objective(resolved, ranks)
            prepare_for_training(objective, runtime, kernels)
            dataset = resolved.dataset
            train_split = dataset.splits["train"]
            context = TrainContext(
                run=run,
                task=task_of(run),
                dataset=dataset,
                objective=objective,
                optimizer=run.recipe.optimizer.build(objective.model),
                runtime=runtime,
                train=train_batches(run, train_split, ranks),
                val=eval_batches(run, dataset.splits["val"], ranks),
                test=eval_batches(run, dataset.splits["test"], ranks),
                folder=folder,
                log=log,
                checkpoints=checkpoints,
                unreadable=UnreadableImageLog(run, dataset, log, display),
                display=display,
                stop=StopRequest(several_ranks),
                workers=default_num_workers(train_split, ranks) if workers is None else workers,
            )
            with guard.explain_oom(objective), stop_on_signals(context.stop):
                fit(context)
            saved = (
                f"stopped after the last step, which is saved: convatlas train --resume {path} evaluates it"
            )
            with explain_stop(printable(saved)):
                with guard.explain_oom(objective):
                    predictions = evaluate_split(context, context.test)
                context.unreadable.record(run.steps, "test", predictions.unreadable)
                context.unreadable.quarantine()
                return ranks.run_on_main(lambda: finish(context, predictions))


@contextmanager
def _open_logs(
    folder: RunFolder, ranks: Ranks, log_format: LogFormat | None
) -> Iterator[tuple[MetricsLog, CheckpointManager]]:
    kind = TensorBoardLog if log_format == "tensorboard" else FileMetricsLog
    log = MetricsLog() if ranks.rank else kind(folder)
    with closing(log), closing(CheckpointManager(folder, log, ranks)) as checkpoints:
        yield log, checkpoints


def _decide_to_compile(run: Run, device: torch.device, existing: RunFile | None, macs: int) -> bool:
    """Decided once, when a run starts; a resumed run keeps the decision, since the bits depend on it."""
    if run.compile != "auto":
        return run.compile
    if existing is not None:
        return bool(existing.environment.get("compile"))
    return should_compile(device, 3.0 * macs * run.recipe.batch * run.steps)


def build_objective(resolved: ResolvedRun, ranks: Ranks) -> Objective:
    """The network with its first weights, its normalisation and losses."""
    run = resolved.run
    recipe = run.recipe
    torch.manual_seed(run.seed)
    model = models.build(run.model)
    if recipe.init != "default":
        model.apply({"glorot": glorot_uniform, "he": he_normal}[recipe.init])
    pretrained = resolved.pretrained
    if run.pretrained and pretrained:
        load_pretrained(run.pretrained, pretrained, model, run.content.classes)
    if run.pretrained and pretrained and run.pretrained.normalization == "pretrained":
        normalizer = pretrained.normalizer
    else:
        images = resolved.dataset.splits["train"].images
        normalizer = recipe.normalize.fit(images, run.content.preprocessing)
    if run.sync_batch_norm:
        convert_sync_batchnorm(model, ranks)
    frozen = freeze(run, model)
    weights = class_weights(run)
    return Objective(model, normalizer, recipe.loss, recipe.auxiliary, recipe.ema, frozen, weights)
