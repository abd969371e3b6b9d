"""Random numbers as a function of their counters: the published generator, uniform and independent."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kstest

from convatlas.data.transforms import counter_rng

SEEDS = st.integers(0, 2**63 - 1)


def test_the_bits_are_those_of_splitmix64() -> None:
    # the first output of the published generator from state 0 (Vigna, splitmix64.c), and one chained by hand
    assert int(counter_rng.random_bits(0)) == 0xE220A8397B1DCDAF
    z = (0xE220A8397B1DCDAF ^ 5) + 0x9E3779B97F4A7C15
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        z = ((z % 2**64) ^ ((z % 2**64) >> shift)) * factor
    assert int(counter_rng.random_bits(0, 5)) == (z % 2**64) ^ ((z % 2**64) >> 31)


@given(SEEDS, st.integers(0, 1000), st.lists(st.integers(0, 10**6), min_size=1, max_size=20, unique=True))
def test_a_samples_bits_do_not_depend_on_other_samples(seed: int, epoch: int, samples: list[int]) -> None:
    bits = counter_rng.random_bits(seed, epoch, np.array(samples))
    assert [int(counter_rng.random_bits(seed, epoch, sample)) for sample in samples] == bits.tolist()


@given(SEEDS, st.integers(0, 1000), st.integers(1, 500))
def test_an_epochs_order_is_a_permutation(seed: int, epoch: int, count: int) -> None:
    assert sorted(counter_rng.permutation(seed, epoch, count)) == list(range(count))


def test_orders_differ_between_epochs_and_seeds() -> None:
    orders = {tuple(counter_rng.permutation(seed, epoch, 100)) for seed in range(5) for epoch in range(5)}
    assert len(orders) == 25


def test_numbers_are_uniform_and_independent_of_their_neighbours() -> None:
    for counters in ((7, 0, np.arange(20_000)), (np.arange(20_000), 0, 0), (7, np.arange(20_000), 3)):
        u = counter_rng.uniform(*counters)
        assert kstest(u, "uniform").pvalue > 1e-4
        assert abs(np.corrcoef(u[:-1], u[1:])[0, 1]) < 0.03
    counts = np.bincount(counter_rng.integers(9, 1, 2, np.arange(90_000)), minlength=9)
    assert abs(counts / 10_000 - 1).max() < 0.05
