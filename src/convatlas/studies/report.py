"""A study's results: the paper's table beside ours, and each claim with its verdict."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from scipy import special

from convatlas.formatting import format_duration
from convatlas.studies.judge import LEVEL, Judgement, Measurements, judge
from convatlas.studies.metrics import observe
from convatlas.studies.observations import Observations
from convatlas.studies.run_result import RunResult
from convatlas.studies.study import AnyArm, Study, UntrainedArm
from convatlas.training.run import Run


class ArmResults(NamedTuple):
    run: Run | None  # complete, of one seed; None of an arm that is not trained
    results: Mapping[int, RunResult]  # by seed


class Interval(NamedTuple):
    """A mean over training seeds with its 95 % t interval; None for fewer than two."""

    mean: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Report:
    """The report of a study at a scale."""

    study: Study
    scale: str
    seeds: tuple[int, ...]
    data: str
    arms: Mapping[str, ArmResults]
    measurements: Measurements
    judgements: tuple[Judgement, ...]

    def interval(self, arm: str, metric: str) -> Interval | None:
        """None where the arm has no value of the metric."""
        observations = self.measurements.get(metric, {}).get(arm)
        return None if observations is None else mean_interval(observations)

    @property
    def failures(self) -> dict[str, list[str]]:
        """Why runs failed or diverged, by arm."""
        return {
            name: [
                f"seed {seed} {result.outcome}: {result.message}"
                for seed, result in sorted(arm.results.items())
                if result.outcome != "ended"
            ]
            for name, arm in self.arms.items()
        }

    @property
    def seconds(self) -> float:
        """Of training and testing, of all runs together."""
        return sum(result.seconds for arm in self.arms.values() for result in arm.results.values())

    def document(self) -> dict[str, Any]:
        metric = self.study.metric
        arms = []
        for name, arm in self.study.arms_at(self.scale).items():
            mean, low, high = self.interval(name, metric) or (None, None, None)
            paper = arm.printed.get(metric)
            arms.append({"name": name, "paper": paper, "mean": mean, "low": low, "high": high})
        return {
            "id": self.study.id,
            "scale": self.scale,
            "metric": metric,
            "data": self.data,
            "seeds": list(self.seeds),
            "arms": arms,
            "claims": [claim_document(judgement) for judgement in self.judgements],
            "seconds": round(self.seconds, 1),
        }


def claim_document(judgement: Judgement) -> dict[str, Any]:
    difference = judgement.evidence.difference
    return {
        "claim": str(judgement.claim),
        "verdict": judgement.verdict,
        "source": judgement.claim.source,
        "difference": None if difference is None else difference.mean,
        "interval": judgement.interval,
        "p": judgement.evidence.p,
        "reason": judgement.evidence.reason,
        "detectable": judgement.detectable,
        "seeds_needed": judgement.seeds_needed,
    }


def verdict_sentence(judgement: Judgement) -> str:
    """What stands behind a verdict, in a few words."""
    evidence = judgement.evidence
    parts = []
    if evidence.difference is not None and judgement.interval is not None:
        low, high = judgement.interval
        parts.append(f"difference {evidence.difference.mean:+.3g} ({low:+.3g} to {high:+.3g})")
    if evidence.reason:
        parts.append(evidence.reason)
    if judgement.verdict == "inconclusive" and judgement.detectable is not None:
        parts.append(f"could have shown a difference of {judgement.detectable:.2g}")
        needed = judgement.seeds_needed
        parts.append(f"{needed} seeds would settle it" if needed else "no number of seeds would settle it")
    return "; ".join(parts)


def make_report(
    study: Study,
    scale: str,
    seeds: Sequence[int],
    data: str,
    arms: Mapping[str, ArmResults],
    level: float = LEVEL,
) -> Report:
    measurements: dict[str, dict[str, Observations]] = {metric: {} for metric in study.metrics}
    for metric in study.metrics:
        for name, arm in arms.items():
            observations = observe(metric, arm.results, arm.run)
            if observations is not None:
                measurements[metric][name] = observations
    judgements = tuple(judge(study.claims, measurements, level))
    return Report(study, scale, tuple(seeds), data, arms, measurements, judgements)


def mean_interval(observations: Observations) -> Interval:
    values = observations.values
    n = len(values)
    mean = float(values.mean())
    if n < 2:
        return Interval(mean, None, None)
    half_width = float(special.stdtrit(n - 1, 0.975) * values.std(ddof=1) / n**0.5)
    return Interval(mean, mean - half_width, mean + half_width)


def describe_arm(arm: AnyArm) -> str:
    """What differs in an arm's run."""
    if isinstance(arm, UntrainedArm):
        return ", ".join([arm.measure, *(f"{name} = {value}" for name, value in arm.arguments.items())])
    changes = [f"{path} = {value}" for path, value in arm.changes.items()]
    edition = [] if arm.edition == "paper" else [f"edition {arm.edition}"]
    return ", ".join([arm.model, *edition, *changes])


def cost_sentence(report: Report) -> str:
    runs = sum(len(arm.results) for arm in report.arms.values())
    return f"{runs} runs, {format_duration(report.seconds)} of training and testing together"
