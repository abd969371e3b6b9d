"""Runs of studies in processes of their own: each ends with a result, whatever happens to it."""

import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from helpers.small_runs import small_run

import convatlas as ca
from convatlas.evaluation import metrics
from convatlas.evaluation.predictions import FILE, read_predictions
from convatlas.storage.records import from_json
from convatlas.studies.execute import WorkerProcess, execute
from convatlas.studies.run_result import RunResult
from convatlas.studies.task import Task
from convatlas.training.probes.records import TrainingScores


def task(name: str, run: ca.Run, root: Path) -> Task:
    return Task(run=run, folder=str(root / name), result=str(root / f"{name}.json"))


def read(root: Path, name: str) -> RunResult:
    return from_json((root / f"{name}.json").read_bytes(), RunResult, name)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of runs that end, diverge, cannot start, and whose process is killed."""
    root = tmp_path_factory.mktemp("studies")
    good = small_run(epochs=2, probes=(TrainingScores(images=200),))
    rate = good.recipe.optimizer.replace(lr=1e25)
    runs = {
        "killed": good.replace(seed=1),
        "good": good,
        "diverging": good.replace(recipe=good.recipe.replace(optimizer=rate, clip=None)),
        "missing": good.replace(data=ca.Run(model="lenet5", data="folder:nowhere").data),
    }
    tasks = {name: task(name, run, root) for name, run in runs.items()}
    killed = threading.Event()
    started: list[WorkerProcess] = []

    class Recorded(WorkerProcess):
        def perform(self, task: Task) -> None:
            if task.folder.endswith("killed") and not killed.is_set():
                started.append(self)
            super().perform(task)

    def kill() -> None:
        log = root / "killed" / "metrics.jsonl"
        while not (log.exists() and log.read_bytes().count(b"\n") > 12):
            time.sleep(0.02)
        killed.set()
        os.kill(started[0]._process.pid, signal.SIGKILL)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("convatlas.studies.execute.WorkerProcess", Recorded)
        thread = threading.Thread(target=kill, daemon=True)
        thread.start()
        done = [Path(task.result).stem for task in execute(list(tasks.values()))]
    assert sorted(done) == sorted(runs)
    assert killed.is_set()
    return root


def test_a_result_holds_the_scores_and_errors_of_the_training_itself(results: Path, tmp_path: Path) -> None:
    run = small_run(epochs=2, probes=(TrainingScores(images=200),))
    trained = ca.train(run, tmp_path)
    result = read(results, "good")
    assert result.outcome == "ended"
    assert result.run == trained.run_id
    assert result.test["top1"] == pytest.approx(trained.metrics["test_top1"])
    predictions = read_predictions(tmp_path / FILE)
    wrong = result.wrong_by_image()
    assert wrong is not None
    assert np.array_equal(wrong, ~metrics.correct(predictions.logits, predictions.labels))
    assert 100 * (1 - wrong.mean()) == pytest.approx(result.test["top1"])
    assert [step for step, _ in result.curve("TrainingScores", "top1")] == [44, 88]


def test_a_killed_run_is_continued_and_ends_as_if_nothing_had_happened(results: Path, tmp_path: Path) -> None:
    run = small_run(epochs=2, seed=1, probes=(TrainingScores(images=200),))
    (done,) = execute([task("alone", run, tmp_path)])
    alone, killed = read(tmp_path, "alone"), read(results, "killed")
    assert done.run == run
    assert killed.replace(seconds=0.0) == alone.replace(seconds=0.0)


def test_a_diverging_run_is_a_result(results: Path) -> None:
    result = read(results, "diverging")
    assert result.outcome == "diverged"
    assert "the loss is not finite at step" in result.message


def test_a_run_that_cannot_start_says_why(results: Path) -> None:
    result = read(results, "missing")
    assert result.outcome == "failed"
    assert "nowhere" in result.message
