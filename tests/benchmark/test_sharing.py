"""What two trainings reach together, in the time that they have in common."""

import pytest

from convatlas.benchmark import sharing
from convatlas.benchmark.sharing import ROWS, benchmark_sharing, common_rate
from convatlas.errors import UserError


def test_steps_count_in_the_common_time_alone() -> None:
    early = [0.0, 1.0, 2.0, 4.0, 6.0, 8.0]  # slower once the other one computes
    late = [3.0, 4.0, 5.0, 6.0, 7.0, 9.0]
    assert common_rate([early]) == 5 / 8
    assert common_rate([early, late]) == 2 / 4 + 4 / 4
    assert common_rate([late, early]) == common_rate([early, late])


def test_trainings_that_do_not_overlap_are_an_error() -> None:
    with pytest.raises(UserError, match="did not compute at the same time"):
        common_rate([[0.0, 1.0, 2.0], [3.0, 4.0]])


def test_rows_are_measured_by_processes_that_start_when_they_should(monkeypatch: pytest.MonkeyPatch) -> None:
    started: dict[str, list[list[float]]] = {
        "alone": [[0.0, 1.0, 2.0]],
        "together": [[0.0, 2.0, 4.0], [0.0, 2.0, 4.0]],
        "latecomer": [[0.0, 1.0, 2.0, 4.0], [2.0, 4.0]],
        "a thread each": [[0.0, 1.5, 3.0], [0.0, 1.5, 3.0]],
    }
    names = {row: name for name, row in ROWS.items()}
    monkeypatch.setattr(sharing, "_run", lambda model, batch, row: started[names[row]])
    document = benchmark_sharing("lenet5", 10, 1, lambda line: None)
    assert [row["images_per_second"] for row in document["rows"]] == [10, 10, 10, pytest.approx(40 / 3)]
    assert [row["ratio"] for row in document["rows"]] == [1, 1, 1, pytest.approx(4 / 3)]


@pytest.mark.slow
@pytest.mark.alone
def test_two_trainings_on_the_same_cores_keep_their_share() -> None:
    document = benchmark_sharing("resnet20_cifar", 64, 1, lambda line: None)
    ratios = {row["name"]: row["ratio"] for row in document["rows"]}
    assert ratios["together"] >= 0.8
    assert ratios["latecomer"] >= 0.6
    assert ratios["a thread each"] >= 0.8
