"""An interrupted evaluation continues, and ranks share one: the same document as of a single process."""

import json
import os
import signal
import time
from collections.abc import Callable
from functools import partial
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


def interrupt() -> None:
    raise KeyboardInterrupt


def terminate() -> None:
    signal.raise_signal(signal.SIGTERM)


def interrupt_after(
    monkeypatch: pytest.MonkeyPatch, calls: int, stop: Callable[[], None] = interrupt
) -> list[int]:
    """Stop in the network's call of this number; returns the list that counts calls."""
    count = [0]
    logits = Classifier.logits

    def counted(self: Classifier, images: Any) -> Any:
        count[0] += 1
        if count[0] == calls:
            stop()
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


def test_a_command_that_sigterm_stops_saves_what_it_has_predicted(
    run: Path,
    expected: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    count = interrupt_after(monkeypatch, 41, terminate)
    command = ["eval", str(run), "--crops", "10", "--json"]
    assert main(command) == 143
    assert capsys.readouterr().err.splitlines()[-1] == "convatlas: stopped by SIGTERM"
    assert list(run.glob("predictions/*.partial/*.safetensors"))
    assert not list(run.rglob("*.tmp"))
    count[0] = 41
    assert main(command) == 0
    assert without_times(json.loads(capsys.readouterr().out)) == json.loads(json.dumps(expected))
    continued = count[0] - 41
    fresh = interrupt_after(monkeypatch, -1)
    ca.evaluate(make_classifier(0, data=str(expected["data"]), batch_size=4), crops="10")
    assert continued == fresh[0] - 40


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


def die() -> None:
    os._exit(9)


def wait_for_signal(waiting: Path) -> None:
    waiting.touch()
    time.sleep(60)


def terminate_after(waiting: Path) -> None:
    while not waiting.exists():
        time.sleep(0.01)
    terminate()


def evaluate_as_rank(run: str, crops: str, calls: int | None, end: Callable[[], None] = die) -> int:
    """`end` is called in the network's call of the number `calls`."""
    if calls is not None:
        logits = Classifier.logits
        count = [0]

        def counted(self: Classifier, images: Any) -> Any:
            count[0] += 1
            if count[0] == calls:
                end()
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


def test_ranks_that_sigterm_stops_save_what_they_have_predicted(
    run: Path, expected: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends = [partial(end, tmp_path / "waiting") for end in (wait_for_signal, terminate_after)]
    jobs = [(evaluate_as_rank, str(run), "10", 21, end) for end in ends]
    results = finish_ranks(start_ranks(tmp_path, jobs))
    assert [result.exit_code for result in results] == [143, 143], results
    assert {file.stem[-2:] for file in run.glob("predictions/*.partial/*.safetensors")} == {"-0", "-1"}
    count = interrupt_after(monkeypatch, -1)
    assert without_times(ca.evaluate(run, crops="10")) == expected
    continued = count[0]
    ca.evaluate(make_classifier(0, data=str(expected["data"]), batch_size=4), crops="10")
    assert continued == count[0] - continued - 40


def test_partial_predictions_are_not_written_through_a_link(
    run: Path, expected: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (run / "predictions").symlink_to(tmp_path / "elsewhere")
    monkeypatch.setattr(partial_predictions, "SAVE_SECONDS", -1.0)
    document = without_times(ca.evaluate(run, crops="10"))
    assert any("is not written through" in note for note in document["notes"])
    assert document | {"notes": expected["notes"]} == expected
    assert not list((tmp_path / "elsewhere").iterdir())
