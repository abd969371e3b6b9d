"""The judge: from claims and measurements to verdicts. It may contradict a paper.

Each claim gets two p-values, of what would support it and of what would contradict it. Holm's procedure
over all claims of a study, of which there are as many as were written down before anything ran, decides
which of them count at the study's level (Holm 1979, Scandinavian Journal of Statistics 6:65)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
from scipy import special

from convatlas.studies.claims import AnyClaim, Equal, Lower, Ordered, Ratio, Slope, Value
from convatlas.studies.observations import (
    Difference,
    Observations,
    difference_from,
    paired_difference,
)

Verdict = Literal["supported", "contradicted", "inconclusive", "not run"]
LEVEL = 0.05  # of a study with a fixed number of seeds
LOOK_LEVEL = 0.01  # of each look of `--seeds auto`
LOOKS = (3, 5, 8, 12, 20)  # numbers of seeds at which `--seeds auto` looks
MIN_SEEDS = 3
MAX_SEEDS = 1000  # that are proposed to settle a claim

# metric -> arm -> what was measured
Measurements = Mapping[str, Mapping[str, Observations]]


@dataclass(frozen=True)
class Evidence:
    """What speaks for and against a claim: p-values, of which at most one is small.

    `difference` is the one that is judged (of `ordered` the least convincing pair's), `margin` what it has to
    exceed; `reason` says in a few words why nothing can be settled, where that is so.
    """

    p_support: float = 1.0
    p_contradict: float = 1.0
    difference: Difference | None = None
    margin: float = 0.0
    reason: str = ""

    @property
    def p(self) -> float:
        return min(self.p_support, self.p_contradict)


@dataclass(frozen=True)
class Judgement:
    """A claim's verdict, at `level`, its share of the study's."""

    claim: AnyClaim
    verdict: Verdict
    evidence: Evidence
    level: float

    @property
    def interval(self) -> tuple[float, float] | None:
        """Of the difference, at the level; None where nothing spreads."""
        difference = self.evidence.difference
        if difference is None or _too_little(difference):
            return None
        half_width = _half_width(difference, self.level)
        return difference.mean - half_width, difference.mean + half_width

    @property
    def detectable(self) -> float | None:
        """The smallest difference that these seeds could have shown: what an inconclusive claim did not
        reach, or did not stay below."""
        if self.interval is None:
            return None
        return self.evidence.margin + (self.interval[1] - self.interval[0]) / 2

    @property
    def seeds_needed(self) -> int | None:
        """The seeds that settle the claim if difference and spread stay as they are; None if no number
        would."""
        difference = self.evidence.difference
        if difference is None or _too_little(difference):
            return None
        return _seeds_needed(difference, self.level, self.evidence.margin)


def judge(claims: Sequence[AnyClaim], measurements: Measurements, level: float = LEVEL) -> list[Judgement]:
    """The verdicts of a study's claims, in their order."""
    evidence = [_evidence(claim, measurements) for claim in claims]
    levels, counts = holm([item.p if item else 1.0 for item in evidence], level)
    return [
        Judgement(claim, _verdict(item, is_settled), item or Evidence(reason="an arm has no result"), share)
        for claim, item, share, is_settled in zip(claims, evidence, levels, counts, strict=True)
    ]


def holm(p_values: Sequence[float], level: float) -> tuple[list[float], list[bool]]:
    """For each p-value the level that it is compared with, and whether it counts."""
    levels, counts = [level] * len(p_values), [False] * len(p_values)
    rejects = True
    for rank, position in enumerate(np.argsort(p_values, kind="stable")):
        levels[position] = level / (len(p_values) - rank)
        rejects = rejects and p_values[position] <= levels[position]
        counts[position] = rejects
    return levels, counts


def _evidence(claim: AnyClaim, measurements: Measurements) -> Evidence | None:
    """None where an arm was not measured."""
    by_arm = measurements.get(claim.metric, {})
    if any(arm not in by_arm or not len(by_arm[arm].seeds) for arm in claim.arms):
        return None
    observations = [by_arm[arm] for arm in claim.arms]
    match claim:
        case Ratio():
            return _evidence_of_ratio(claim, *observations)
        case Lower():
            return _evidence_of_lower(*observations)
        case Equal():
            return _evidence_of_equal(paired_difference(*observations), claim.within)
        case Value():
            (values,) = observations
            return _evidence_of_equal(difference_from(values, claim.value), claim.within)
        case Ordered():
            return _evidence_of_order(observations)
        case Slope():
            return _evidence_of_slope(claim, observations)


def _evidence_of_ratio(claim: Ratio, a: Observations, b: Observations) -> Evidence:
    ratio = float(a.values[0] / b.values[0])
    is_right = abs(ratio / claim.ratio - 1) <= claim.within
    reason = f"computed: {ratio:.4g}"
    return Evidence(0.0 if is_right else 1.0, 1.0 if is_right else 0.0, reason=reason)


def _evidence_of_lower(a: Observations, b: Observations) -> Evidence:
    if a.censored is not None or b.censored is not None:
        return _sign_test(a, b)
    difference = paired_difference(a, b)
    if reason := _too_little(difference):
        return Evidence(difference=difference, reason=reason)
    p = _two_sided(difference)
    return Evidence(p, 1.0, difference) if difference.mean < 0 else Evidence(1.0, p, difference)


def _sign_test(a: Observations, b: Observations) -> Evidence:
    """Of values some of which are bounds: on how many seeds is `a` lower? Ties settle nothing."""
    _, rows, other_rows = np.intersect1d(a.seeds, b.seeds, assume_unique=True, return_indices=True)
    signs = np.sign(a.values[rows] - b.values[other_rows])
    lower, higher = int((signs < 0).sum()), int((signs > 0).sum())
    reason = f"lower on {lower} and higher on {higher} of {len(rows)} seeds; exact sign test"
    if lower == higher:
        return Evidence(reason=reason)
    p = min(1.0, 2 * float(special.bdtr(min(lower, higher), lower + higher, 0.5)))
    return Evidence(p, 1.0, reason=reason) if lower > higher else Evidence(1.0, p, reason=reason)


def _evidence_of_equal(difference: Difference, within: float) -> Evidence:
    """Two one-sided tests; contradicted where the whole interval lies outside of the margin."""
    if reason := _too_little(difference):
        return Evidence(difference=difference, margin=within, reason=reason)
    excess = (abs(difference.mean) - within) / difference.se
    p_support = float(special.stdtr(difference.df, excess))  # of the nearer end of the margin
    return Evidence(p_support, min(1.0, 2 * (1 - p_support)), difference, within)


def _evidence_of_order(observations: Sequence[Observations]) -> Evidence:
    """Each pair of neighbours is a claim of its own; one that is reversed contradicts, at a level that their
    number divides."""
    pairs = [_evidence_of_lower(a, b) for a, b in pairwise(observations)]
    weakest = max(pairs, key=lambda pair: pair.p_support)
    contradiction = min(pairs, key=lambda pair: pair.p_contradict)
    p_contradict = min(1.0, len(pairs) * contradiction.p_contradict)
    shown = contradiction if p_contradict < weakest.p_support else weakest
    return Evidence(weakest.p_support, p_contradict, shown.difference, reason=shown.reason)


def _evidence_of_slope(claim: Slope, observations: Sequence[Observations]) -> Evidence:
    seeds = set.intersection(*(set(item.seeds.tolist()) for item in observations))
    values = np.array(
        [item.values[np.isin(item.seeds, sorted(seeds))] for item in observations]
    )  # (arms, seeds)
    x = np.array([claim.x[arm] for arm in claim.arms])
    centered = x - x.mean()
    slopes = centered @ values / (centered @ centered)
    n = len(slopes)
    variance = float(slopes.var(ddof=1)) if n > 1 else 0.0
    difference = Difference(float(slopes.mean()) if n else float("nan"), variance, n)
    if reason := _too_little(difference):
        return Evidence(difference=difference, reason=reason)
    p = _two_sided(difference)
    is_right = (difference.mean > 0) == (claim.sign == "rises")
    return Evidence(p, 1.0, difference) if is_right else Evidence(1.0, p, difference)


def _too_little(difference: Difference) -> str:
    """Why seeds give no interval, in a few words."""
    if difference.n < MIN_SEEDS:
        plural = "seed gives" if difference.n == 1 else "seeds give"
        return f"{difference.n} {plural} no interval: at least {MIN_SEEDS} are needed"
    return "" if difference.seed_variance else "all seeds differ by the same: there is no spread to judge by"


def _two_sided(difference: Difference) -> float:
    return 2 * float(special.stdtr(difference.df, -abs(difference.mean) / difference.se))


def _verdict(evidence: Evidence | None, is_settled: bool) -> Verdict:
    if evidence is None:
        return "not run"
    if not is_settled:
        return "inconclusive"
    return "supported" if evidence.p_support <= evidence.p_contradict else "contradicted"


def _half_width(difference: Difference, level: float) -> float:
    return difference.se * float(special.stdtrit(difference.df, 1 - level / 2))


def _seeds_needed(difference: Difference, level: float, margin: float) -> int | None:
    """The smallest number of seeds whose interval would exclude the margin; a search by bisection, since
    intervals shrink with seeds."""
    distance = abs(abs(difference.mean) - margin)
    if _half_width(difference.with_seeds(MAX_SEEDS), level) >= distance:
        return None
    low, high = difference.n, MAX_SEEDS
    while high - low > 1:
        middle = (low + high) // 2
        if _half_width(difference.with_seeds(middle), level) < distance:
            high = middle
        else:
            low = middle
    return high
