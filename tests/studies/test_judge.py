"""The judge on made-up results whose truth is known."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from convatlas.studies.claims import AnyClaim, Equal, Lower, Ordered, Ratio, Slope
from convatlas.studies.judge import LOOK_LEVEL, LOOKS, Judgement, holm, judge
from convatlas.studies.observations import Observations, paired_difference

DRAWS = 2000
# The 99 % bound of the number of false verdicts in 2,000 draws at a rate of 5 %
BOUND = 123
LOWER = Lower(metric="error", a="a", b="b")
EQUAL = Equal(metric="error", a="a", b="b", within=1.0)
ORDERED = Ordered(metric="error", arms=("a", "b", "c"))
SLOPE = Slope(metric="error", x={"a": 1.0, "b": 2.0, "c": 3.0}, sign="rises")

Noise = Callable[[np.random.Generator, tuple[int, ...]], NDArray[np.float64]]
NOISES: dict[str, Noise] = {
    "normal": lambda rng, shape: rng.standard_normal(shape),
    "heavy-tailed": lambda rng, shape: rng.standard_t(3, shape),
}


def observe(values: NDArray[np.float64]) -> Observations:
    return Observations(np.arange(len(values)), np.asarray(values, np.float64))


def arms(means: dict[str, float], n: int, noise: Noise, rng: np.random.Generator) -> dict[str, Observations]:
    return {arm: observe(mean + noise(rng, (n,))) for arm, mean in means.items()}


def verdict_with_fixed_seeds(claim: AnyClaim, results: dict[str, Observations], n: int) -> str:
    cut = {arm: observe(item.values[:n]) for arm, item in results.items()}
    return judge([claim], {"error": cut})[0].verdict


def verdict_by_looks(claim: AnyClaim, results: dict[str, Observations]) -> str:
    for n in LOOKS:
        cut = {arm: observe(item.values[:n]) for arm, item in results.items()}
        verdict = judge([claim], {"error": cut}, LOOK_LEVEL)[0].verdict
        if verdict != "inconclusive":
            return verdict
    return "inconclusive"


# Truths under which each verdict that is listed is false, at the edge where it is the hardest to avoid
NULLS: list[tuple[AnyClaim, dict[str, float], set[str]]] = [
    (LOWER, {"a": 0, "b": 0}, {"supported", "contradicted"}),
    (EQUAL, {"a": 1.0001, "b": 0}, {"supported"}),
    (EQUAL, {"a": 0.9999, "b": 0}, {"contradicted"}),
    (ORDERED, {"a": 0, "b": 0, "c": 9}, {"supported"}),
    (ORDERED, {"a": 0, "b": 0.0001, "c": 0.0002}, {"contradicted"}),
    (SLOPE, {"a": 0, "b": 0, "c": 0}, {"supported", "contradicted"}),
]


@pytest.mark.parametrize("kind", NOISES)
@pytest.mark.parametrize(("claim", "means", "false"), NULLS, ids=lambda value: type(value).__name__)
def test_at_most_one_verdict_in_twenty_is_false(
    claim: AnyClaim, means: dict[str, float], false: set[str], kind: str
) -> None:
    rng = np.random.default_rng(0)
    verdicts = [verdict_with_fixed_seeds(claim, arms(means, 3, NOISES[kind], rng), 3) for _ in range(DRAWS)]
    assert sum(verdict in false for verdict in verdicts) <= BOUND


@pytest.mark.parametrize("kind", ["normal", pytest.param("heavy-tailed", marks=pytest.mark.slow)])
@pytest.mark.parametrize(("claim", "means", "false"), NULLS, ids=lambda value: type(value).__name__)
def test_looking_five_times_gives_no_more_false_verdicts(
    claim: AnyClaim, means: dict[str, float], false: set[str], kind: str
) -> None:
    rng = np.random.default_rng(0)
    verdicts = [verdict_by_looks(claim, arms(means, LOOKS[-1], NOISES[kind], rng)) for _ in range(DRAWS)]
    assert sum(verdict in false for verdict in verdicts) <= BOUND


def test_differences_that_stand_out_are_reported() -> None:
    rng = np.random.default_rng(0)
    results = {"error": arms({"a": 0, "b": 5, "c": 10}, 8, NOISES["normal"], rng)}
    equal = Equal(metric="error", a="a", b="b", within=20.0)
    reversed_order = Ordered(metric="error", arms=("c", "b", "a"))
    rises = Lower(metric="error", a="c", b="a")
    claims: list[AnyClaim] = [LOWER, equal, ORDERED, SLOPE, reversed_order, rises, EQUAL]
    verdicts = [judgement.verdict for judgement in judge(claims, results)]
    assert verdicts == ["supported"] * 4 + ["contradicted"] * 3


def test_the_paired_test_is_scipys_and_the_interval_belongs_to_it() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.normal(0, 1, 6), rng.normal(1, 1, 6)
    (judgement,) = judge([LOWER], {"error": {"a": observe(a), "b": observe(b)}})
    expected = stats.ttest_rel(a, b)
    assert judgement.evidence.p == pytest.approx(expected.pvalue, rel=1e-9)
    assert judgement.interval == pytest.approx(tuple(expected.confidence_interval(0.95)), rel=1e-9)


@given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=8))
def test_claims_share_the_level_by_holm(p_values: list[float]) -> None:
    """A claim counts if and only if its adjusted p-value, by the definition, is at most the level."""
    order = np.argsort(p_values, kind="stable")
    adjusted = np.maximum.accumulate(
        [(len(p_values) - rank) * p_values[position] for rank, position in enumerate(order)]
    )
    _, counts = holm(p_values, 0.05)
    assert [counts[position] for position in order] == [bool(p <= 0.05) for p in adjusted]


def test_test_images_widen_the_interval_as_satterthwaite_says() -> None:
    rng = np.random.default_rng(2)
    wrong_a, wrong_b = rng.random((4, 500)) < 0.30, rng.random((4, 500)) < 0.25
    a, b = (
        Observations(np.arange(4), 100 * wrong.mean(axis=1), by_image=wrong) for wrong in (wrong_a, wrong_b)
    )
    difference = paired_difference(a, b)
    of_seeds = np.var(a.values - b.values, ddof=1) / 4
    of_images = np.var(100 * (wrong_a.mean(axis=0) - wrong_b.mean(axis=0)), ddof=1) / 500
    assert difference.se**2 == pytest.approx(of_seeds + of_images)
    expected_df = (of_seeds + of_images) ** 2 / (of_seeds**2 / 3 + of_images**2 / 499)
    assert difference.df == pytest.approx(expected_df)


def test_seeds_are_paired_whatever_their_order_and_others_are_left_out() -> None:
    a = Observations(np.array([0, 1, 2, 7]), np.array([1.0, 2, 4, 100]))
    b = Observations(np.array([0, 1, 2, 3]), np.array([1.5, 3, 5, -100]))
    assert paired_difference(a, b).mean == pytest.approx((-0.5 - 1 - 1) / 3)


@pytest.mark.parametrize(
    ("a", "b", "reason"),
    [
        ([1.0, 2.0], [2.0, 4.0], "2 seeds give no interval"),
        ([1.0, 2.0, 3.0], [2.0, 3.0, 4.0], "no spread"),
    ],
)
def test_without_a_spread_nothing_is_settled(a: list[float], b: list[float], reason: str) -> None:
    results = {"error": {"a": observe(np.array(a)), "b": observe(np.array(b))}}
    for claim in (LOWER, EQUAL):
        (judgement,) = judge([claim], results)
        assert judgement.verdict == "inconclusive"
        assert reason in judgement.evidence.reason
        assert judgement.seeds_needed is None


@pytest.mark.parametrize(("n", "verdict"), [(5, "inconclusive"), (6, "supported")])
def test_bounds_are_never_settled_below_six_seeds(n: int, verdict: str) -> None:
    censored = np.zeros(n, bool)
    a = Observations(np.arange(n), np.arange(n, dtype=float), censored=censored)
    b = Observations(np.arange(n), np.full(n, 1000.0), censored=~censored)
    (judgement,) = judge([LOWER], {"error": {"a": a, "b": b}})
    assert judgement.verdict == verdict
    assert f"lower on {n} and higher on 0 of {n} seeds" in judgement.evidence.reason


def test_a_claim_without_results_is_not_run_and_still_takes_its_share_of_the_level() -> None:
    a, b = observe(np.array([0.0, 0.1, 0.2])), observe(np.array([0.6, 0.75, 0.75]))
    (alone,) = judge([LOWER], {"error": {"a": a, "b": b}})
    with_others = judge([LOWER, ORDERED, SLOPE], {"error": {"a": a, "b": b}})
    assert [item.verdict for item in with_others[1:]] == ["not run", "not run"]
    assert with_others[0].level == pytest.approx(alone.level / 3)


def test_the_seeds_that_are_said_to_settle_a_claim_do() -> None:
    rng = np.random.default_rng(3)
    results = {"error": arms({"a": 0, "b": 0.7}, 5, NOISES["normal"], rng)}
    (judgement,) = judge([LOWER], results)
    assert judgement.verdict == "inconclusive"
    assert judgement.evidence.difference is not None
    assert judgement.detectable is not None
    assert abs(judgement.evidence.difference.mean) < judgement.detectable
    n = judgement.seeds_needed
    assert n is not None
    for seeds, is_settled in ((n - 1, False), (n, True)):
        difference = judgement.evidence.difference.with_seeds(seeds)
        t = abs(difference.mean) / difference.se
        assert (t > stats.t(seeds - 1).isf(0.025)) == is_settled


@pytest.mark.parametrize(("ratio", "verdict"), [(0.72, "supported"), (0.75, "contradicted")])
def test_arithmetic_is_settled_by_what_was_computed(ratio: float, verdict: str) -> None:
    costs = {"a": observe(np.array([18.0])), "b": observe(np.array([25.0]))}
    claim = Ratio(metric="macs", a="a", b="b", ratio=ratio, within=0.005)
    judgements: list[Judgement] = judge([claim], {"macs": costs})
    assert judgements[0].verdict == verdict
    assert judgements[0].evidence.reason == "computed: 0.72"
