"""The number of threads that compute: --threads, OMP_NUM_THREADS, or an equal share of the cores."""

import pytest

from convatlas.errors import UsageError
from convatlas.runtime.num_threads import default_threads, usable_cores


def test_without_a_choice_ranks_share_the_cores_equally() -> None:
    assert default_threads(1, {}) == usable_cores()
    assert default_threads(usable_cores(), {}) == 1
    assert default_threads(1000, {}) == 1


def test_omp_num_threads_is_obeyed() -> None:
    assert default_threads(1, {"OMP_NUM_THREADS": "1"}) == 1
    assert default_threads(1, {"OMP_NUM_THREADS": "3,2"}) == 3
    assert default_threads(2, {"OMP_NUM_THREADS": "3"}) == 3


def test_the_1_that_torchrun_sets_is_no_choice() -> None:
    assert default_threads(2, {"OMP_NUM_THREADS": "1"}) == default_threads(2, {})


def test_the_option_is_stronger_than_the_variable() -> None:
    assert default_threads(2, {"OMP_NUM_THREADS": "3", "CONVATLAS_THREADS": "1"}) == 1


@pytest.mark.parametrize("text", ["0", "-1", "two", "1.5", "100000"])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=f"OMP_NUM_THREADS is '{text}': expected a number of threads"):
        default_threads(1, {"OMP_NUM_THREADS": text})
