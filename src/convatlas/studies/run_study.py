"""A study, run: what is missing is trained, the rest is read."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from convatlas.errors import UsageError, printable
from convatlas.runtime.device import select_device
from convatlas.runtime.progress import track
from convatlas.storage.records import from_json
from convatlas.studies.execute import execute
from convatlas.studies.measures import MEASURES
from convatlas.studies.report import ArmResults, Report, make_report
from convatlas.studies.run_result import FORMAT, RunResult
from convatlas.studies.study import Arm, Study, UntrainedArm, expand
from convatlas.studies.task import Task
from convatlas.training.resolve import resolve_run
from convatlas.training.run import Run

DEFAULT_ROOT = Path("runs/studies")


@dataclass(frozen=True)
class StudyRuns:
    """The runs of a study by arm and seed, and where their results are.

    Results are named by the run: equal runs of several studies have one.
    """

    study: Study
    scale: str
    seeds: tuple[int, ...]
    data: str
    root: Path
    runs: dict[str, dict[int, Run]]

    @classmethod
    def of(cls, study: Study, scale: str, seeds: Sequence[int], data: str, root: Path) -> "StudyRuns":
        by_seed = {seed: expand(study, scale, seed, data) for seed in seeds}
        arms = study.arms_at(scale)
        runs = {
            name: {seed: by_seed[seed][name] for seed in seeds}
            for name, arm in arms.items()
            if isinstance(arm, Arm)
        }
        return cls(study, scale, tuple(seeds), data or study.scale(scale).data, root, runs)

    def result_file(self, run: Run) -> Path:
        return self.root / "results" / f"{run.id[:16]}.json"

    def tasks(self) -> list[Task]:
        """Those of the runs without a result, seed by seed, so that arms can be compared early."""
        missing: dict[str, Task] = {}
        for seed in self.seeds:
            for by_seed in self.runs.values():
                run = by_seed[seed]
                result = self.read_result(run)
                if result is None or result.outcome == "failed":  # which is tried again
                    folder = self.root / "runs" / run.id[:16]
                    file = str(self.result_file(run))
                    missing[run.id] = Task(run=run, folder=str(folder), result=file)
        return list(missing.values())

    def read_result(self, run: Run) -> RunResult | None:
        """None where there is none. Raises UsageError for a file of another format."""
        file = self.result_file(run)
        if not file.exists():
            return None
        result = from_json(file.read_bytes(), RunResult, printable(file))
        if result.format != FORMAT:
            raise UsageError(
                f"{printable(file)} has format {result.format}, and this version reads {FORMAT}: remove it"
            )
        return result

    def report(self) -> Report:
        """Of the results that are there."""
        arms: dict[str, ArmResults] = {}
        for name, arm in self.study.arms_at(self.scale).items():
            if isinstance(arm, UntrainedArm):
                arms[name] = ArmResults(None, {seed: measure(arm, seed) for seed in self.seeds})
        for name, by_seed in self.runs.items():
            results = {seed: self.read_result(run) for seed, run in by_seed.items()}
            ended = {seed: result for seed, result in results.items() if result is not None}
            complete = resolve_run(by_seed[self.seeds[0]], select_device("cpu")).run
            arms[name] = ArmResults(complete, ended)
        return make_report(self.study, self.scale, self.seeds, self.data, arms)


def measure(arm: UntrainedArm, seed: int) -> RunResult:
    start = time.perf_counter()
    values = MEASURES[arm.measure](seed=seed, **arm.arguments)
    seconds = time.perf_counter() - start
    return RunResult(run="", outcome="ended", seconds=round(seconds, 2), steps=0, test=values)


def run_study(
    study: Study,
    scale: str = "small",
    seeds: int | None = None,
    data: str = "",
    root: Path = DEFAULT_ROOT,
    say: Callable[[str], None] = lambda line: None,
) -> Report:
    """Train the runs that have no result yet, side by side, each with one thread on a core of its own, and
    judge the study's claims.

    `seeds` are by default the scale's. A study that was stopped continues where it was. Raises UsageError for
    a scale that the study does not have, StoppedBySignal when a signal stopped it (saved).
    """
    count = study.scale(scale).seeds if seeds is None else seeds
    if count < 1:
        raise UsageError(f"--seeds should be 1 or more, not {count}")
    study_runs = StudyRuns.of(study, scale, range(count), data, root)
    if study_runs.runs:
        _train_missing(study_runs, say)
    return study_runs.report()


def _train_missing(study_runs: StudyRuns, say: Callable[[str], None]) -> None:
    runs = {run.id: run for by_seed in study_runs.runs.values() for run in by_seed.values()}
    first = next(iter(runs.values()))
    resolve_run(first, select_device("cpu"))  # raises where there is no such data
    tasks = study_runs.tasks()
    done = len(runs) - len(tasks)
    say(f"{study_runs.study.id} at {study_runs.scale}: {len(runs)} runs, {done} of them done")
    study_runs.result_file(first).parent.mkdir(parents=True, exist_ok=True)
    for _ in track(execute(tasks), len(tasks), "runs"):
        pass
