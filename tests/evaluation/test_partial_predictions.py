"""An interrupted evaluation continues, and ranks share one: the same document as of a single process."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from helpers.ensemble_members import make_classifier, make_run
from helpers.rank_jobs import finish_ranks, start_ranks

import convatlas as ca
from convatlas.classifier import Classifier
from convatlas.cli.main import main
from convatlas.evaluation import partial_predictions


def without_times(document: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in document.items() if key != "members"}


@pytest.fixture
def run(photos: str, tmp_path: Path) -> Path:
    return make_run(tmp_path / "run", make_classifier(0, data=photos, batch_size=4))


@pytest.fixture
def expected(photos: str) -> dict[str, Any]:
    return without_times(ca.evaluate(make_classifier(0, data=photos, batch_size=4), crops="10"))


def interrupt_after(monkeypatch: pytest.MonkeyPatch, calls: int) -> list[int]:
    """Raise KeyboardInterrupt in the network's call of this number; returns the list that counts calls."""
    count = [0]
    logits = Classifier.logits

    def counted(self: Classifier, images: Any) -> Any:
        count[0] += 1
        if count[0] == calls:
            raise KeyboardInterrupt
        return logits(self, images)

    monkeypatch.setattr(Classifier, "logits", counted)
    return count


def test_an_interrupted_evaluation_computes_only_the_rest(
    run: Path, expected: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    count = interrupt_after(monkeypatch, 41)
    with pytest.raises(KeyboardInterrupt):
        ca.evaluate(run, crops="10")
    assert list(run.glob("predictions/*.partial/*.safetensors"))
    before = count[0]
    assert without_times(ca.evaluate(run, crops="10")) == expected
    total = count[0] - 1
    fresh = interrupt_after(monkeypatch, -1)
    ca.evaluate(make_classifier(0, data=str(expected["data"]), batch_size=4), crops="10")
    assert before > 1
    assert total == fresh[0]
    assert not list(run.glob("predictions/*.partial"))


def test_damaged_partial_predictions_are_computed_again(
    run: Path, expected: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(partial_predictions, "SAVE_SECONDS", -1.0)  # a file for each batch
        interrupt_after(patched, 41)
        with pytest.raises(KeyboardInterrupt):
            ca.evaluate(run, crops="10")
    for number, file in enumerate(sorted(run.glob("predictions/*.partial/*.safetensors"))):
        if number % 2:
            data = bytearray(file.read_bytes())
            data[-1] ^= 1
            file.write_bytes(data)
    assert without_times(ca.evaluate(run, crops="10")) == expected


def test_a_folder_that_cannot_be_written_is_done_without(
    run: Path, expected: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    (run / "predictions").write_text("a file in the way")
    monkeypatch.setattr(partial_predictions, "SAVE_SECONDS", -1.0)
    document = without_times(ca.evaluate(run, crops="10"))
    assert any("could not be cached" in note for note in document["notes"])
    assert document | {"notes": expected["notes"]} == expected


def evaluate_as_rank(run: str, crops: str, die_after: int | None) -> int:
    if die_after is not None:
        logits = Classifier.logits
        count = [0]

        def counted(self: Classifier, images: Any) -> Any:
            count[0] += 1
            if count[0] == die_after:
                os._exit(9)
            return logits(self, images)

        Classifier.logits = counted  # type: ignore[method-assign]
    return main(["eval", run, "--crops", crops, "--json"])


def test_two_ranks_give_the_document_of_a_single_process(
    run: Path, expected: dict[str, Any], tmp_path: Path
) -> None:
    job = (evaluate_as_rank, str(run), "10", None)
    first, second = finish_ranks(start_ranks(tmp_path, [job, job]))
    assert (first.exit_code, second.exit_code, second.stdout) == (0, 0, "")
    document = json.loads(first.stdout)
    assert without_times(document) == json.loads(json.dumps(expected))


def test_a_lost_rank_costs_its_own_share_only(
    run: Path, expected: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = [(evaluate_as_rank, str(run), "10", None), (evaluate_as_rank, str(run), "10", 3)]
    first, second = finish_ranks(start_ranks(tmp_path, jobs, CONVATLAS_TIMEOUT="5"))
    assert second.exit_code == 9
    assert first.exit_code == 1
    count = interrupt_after(monkeypatch, -1)
    assert without_times(ca.evaluate(run, crops="10")) == expected
    fresh = interrupt_after(monkeypatch, -1)
    ca.evaluate(make_classifier(0, data=str(expected["data"]), batch_size=4), crops="10")
    assert 0 < count[0] - fresh[0] <= fresh[0] / 2
