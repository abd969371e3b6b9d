"""The metrics that claims are about, from the results of an arm's runs.

`test_error`, `training_error`, `test_loss`, `steps_to(PERCENT)` of training error, `diverged`, `macs`,
`params`, `probe(NAME, key)`, or for a value by layer `probe(NAME, key, PATH)`."""

import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from convatlas import models
from convatlas.analysis import analyze
from convatlas.errors import UsageError, printable
from convatlas.studies.observations import Observations
from convatlas.studies.run_result import RunResult
from convatlas.training.run import Run

_CALL = re.compile(r"(\w+)(?:\((.*)\))?")

Results = Mapping[int, RunResult]  # by seed


class Metric(NamedTuple):
    """A metric by name, with what stands in its parentheses."""

    name: str
    arguments: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> "Metric":
        """Raises UsageError for text of another form."""
        match = _CALL.fullmatch(text.strip())
        if not match:
            raise UsageError(f"metric {printable(text)!r}: expected NAME or NAME(ARGUMENTS)")
        arguments = match[2] or ""
        return cls(match[1], tuple(part.strip() for part in arguments.split(",") if part.strip()))


def observe(text: str, results: Results, run: Run | None) -> Observations | None:
    """A metric of an arm's runs by seed; None where no run has it. `run` is one of them; None of an arm that
    is not trained."""
    metric = Metric.parse(text)
    if run is None:
        measured = np.array([result.test[text] for _, result in sorted(results.items())], np.float64)
        return Observations(np.array(sorted(results), np.int64), measured)
    if metric.name in ("macs", "params"):
        return Observations(np.zeros(1, np.int64), np.array([_cost(metric.name, run)]))
    if metric.name not in _OF_RUN:
        raise UsageError(f"unknown metric {printable(text)!r}: known are {', '.join(_OF_RUN)}, macs, params")
    counted = {seed: result for seed, result in sorted(results.items()) if result.outcome != "failed"}
    if metric.name != "diverged":
        of_ended = {seed: result for seed, result in counted.items() if result.outcome == "ended"}
        counted = counted if metric.name == "steps_to" else of_ended
    if not counted:
        return None
    seeds = np.array(list(counted), np.int64)
    pairs = [_OF_RUN[metric.name](result, *metric.arguments) for result in counted.values()]
    values = np.array([value for value, _ in pairs], np.float64)
    if metric.name in ("steps_to", "diverged"):
        return Observations(seeds, values, censored=np.array([is_bound for _, is_bound in pairs]))
    by_image = None
    if metric.name == "test_error":
        rows = [result.wrong_by_image() for result in counted.values()]
        by_image = None if any(row is None for row in rows) else np.stack(rows)  # type: ignore[arg-type]
    return Observations(seeds, values, by_image)


def _cost(name: str, run: Run) -> float:
    model = models.build(run.model)
    report = analyze(model, run.content.preprocessing.shape)
    return float(getattr(report, name))


def _test_error(result: RunResult) -> tuple[float, bool]:
    return 100 - result.test["top1"], False


def _test_loss(result: RunResult) -> tuple[float, bool]:
    return result.test["loss"], False


def _training_error(result: RunResult) -> tuple[float, bool]:
    return 100 - result.curve("TrainingScores", "top1")[-1][1], False


def _steps_to(result: RunResult, percent: str) -> tuple[float, bool]:
    """The first step whose training error is at most so high; the run's steps, as a bound, where none is."""
    for step, top1 in result.curve("TrainingScores", "top1"):
        if 100 - top1 <= float(percent):
            return step, False
    return result.steps, True


def _diverged(result: RunResult) -> tuple[float, bool]:
    return float(result.outcome == "diverged"), False


def _probe(result: RunResult, name: str, key: str, path: str = "") -> tuple[float, bool]:
    value = result.curve(name, key)[-1][1]
    return float(value[path] if path else value), False


_OF_RUN: dict[str, Callable[..., tuple[float, bool]]] = {
    "test_error": _test_error,
    "training_error": _training_error,
    "test_loss": _test_loss,
    "steps_to": _steps_to,
    "diverged": _diverged,
    "probe": _probe,
}
