"""Several ranks train as one process: the same losses, the same predictions, the same weights after any
interruption. An error is printed once and ends all of them."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.rank_jobs import (
    RankProcess,
    RankResult,
    finish_ranks,
    predictions_are_identical,
    print_float32_losses,
    print_measurements,
    rank_run,
    start_ranks,
    train_arguments,
    train_on_a_slow_disk,
    training_losses,
)
from helpers.small_runs import last_step, weights_sha256

import convatlas as ca
from convatlas.cli.main import main
from convatlas.errors import UsageError
from convatlas.runtime.distributed.ranks import SINGLE_PROCESS, Ranks
from convatlas.runtime.distributed.rendezvous import init_ranks, timeout_seconds
from convatlas.runtime.runtime import Runtime

SOURCE = Path(ca.__file__).parent.parent


def start_training(out: Path, *runs: ca.Run, **options: Any) -> list[RankProcess]:
    """Start `convatlas train` on as many ranks as there are runs, which are the same one except in tests of
    ranks that differ."""
    return start_ranks(out.parent, [(main, train_arguments(out, run)) for run in runs], **options)


def finish_successfully(ranks: Sequence[RankProcess]) -> list[RankResult]:
    results = finish_ranks(ranks)
    assert [result.exit_code for result in results] == [0] * len(results), results
    return results


def only_error(results: list[RankResult]) -> str:
    """The single line that all ranks together print on stderr."""
    errors = "".join(result.stderr for result in results)
    assert errors.count("\n") == 1, errors
    assert errors.startswith("convatlas: "), errors
    return errors


@pytest.fixture(scope="module")
def measurements(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The measurements of two ranks, which agree on them."""
    results = finish_successfully(start_ranks(tmp_path_factory.mktemp("ranks"), [(print_measurements,)] * 2))
    documents: list[dict[str, Any]] = [json.loads(result.stdout) for result in results]
    first, second = documents
    for name in first.keys() - {"batch norm"}:  # a rank's differences are those of its share
        assert first[name] == second[name]
    return first


def test_collectives_combine_the_values_of_all_ranks(measurements: dict[str, Any]) -> None:
    assert measurements["max"] == [1, 7]
    assert measurements["sum"] == [3.0, 1.0]
    assert measurements["gathered"] == [{"rank": 0}, {"rank": 1}]
    assert measurements["main"] == "of 0"


def test_synchronised_batch_norm_is_torchs_on_the_full_batch(measurements: dict[str, Any]) -> None:
    assert max(measurements["batch norm"]) < 1e-10


def test_two_ranks_predict_as_one_process_to_the_last_bit(measurements: dict[str, Any]) -> None:
    assert measurements["identical predictions"] == [True] * 3
    assert predictions_are_identical(SINGLE_PROCESS, 50)


def test_two_ranks_have_the_losses_of_one_process_in_float64(measurements: dict[str, Any]) -> None:
    expected = training_losses(SINGLE_PROCESS, "lenet5", 0.001)
    assert expected[-1] < 0.9 * expected[0]
    assert measurements["losses"] == pytest.approx(expected, rel=1e-10)
    assert measurements["losses in micro-batches"] == pytest.approx(expected, rel=1e-10)
    expected = training_losses(SINGLE_PROCESS, "resnet20_cifar", 0.01)
    assert expected[-1] < 0.3 * expected[0]
    assert measurements["losses, synchronised"] == pytest.approx(expected, rel=1e-10)
    # batch norm that is not synchronised would be detected
    assert measurements["losses, unsynchronised"] != pytest.approx(expected[:3], rel=1e-4)


def logged_losses(out: Path) -> list[float]:
    lines = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if line.get("split") == "train"]


@pytest.mark.parametrize(
    "run",
    [rank_run("lenet5"), rank_run("resnet20_cifar", batch=96, sync_batch_norm=True)],
    ids=lambda run: run.model.name,
)
def test_a_training_on_two_ranks_has_the_log_of_one_process(run: ca.Run, tmp_path: Path) -> None:
    ca.train(run, out=tmp_path / "one")
    results = finish_successfully(start_training(tmp_path / "two", run, run))
    assert (results[1].stdout, results[1].stderr) == ("", "")
    assert "2 ranks" in results[0].stdout
    expected = logged_losses(tmp_path / "one")
    assert len(expected) == 50
    assert expected[-1] < 0.9 * expected[0]
    assert logged_losses(tmp_path / "two") == pytest.approx(expected, rel=1e-4)
    assert json.loads((tmp_path / "two" / "run.json").read_text())["environment"]["ranks"] == 2
    assert (tmp_path / "two" / "report.md").exists()


DROPOUT_RUN = rank_run(dropout=0.5, steps=60)
ENDLESS_RUN = rank_run(steps=100000)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("uninterrupted") / "run"
    finish_successfully(start_training(out, DROPOUT_RUN, DROPOUT_RUN))
    return out


def wait_for_step(step: int, out: Path, ranks: Sequence[RankProcess]) -> None:
    while last_step(out) < step:
        assert all(rank.process.is_alive() for rank in ranks), finish_ranks(ranks)
        time.sleep(0.002)


def assert_same_run(out: Path, expected: Path) -> None:
    assert weights_sha256(out) == weights_sha256(expected)
    assert (out / "metrics.jsonl").read_bytes() == (expected / "metrics.jsonl").read_bytes()


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_rank_ends_the_other_and_a_restart_has_the_same_weights(
    victim: int, uninterrupted: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    ranks = start_training(out, DROPOUT_RUN, DROPOUT_RUN)
    wait_for_step(15, out, ranks)
    ranks[victim].process.kill()
    results = finish_ranks(ranks, 30)
    assert results[1 - victim].exit_code == 1
    assert re.search(rf"rank {victim} (\(of 2\) )?has died", only_error(results))
    results = finish_successfully(start_training(out, DROPOUT_RUN, DROPOUT_RUN))
    assert "continuing from step" in results[0].stdout
    assert_same_run(out, uninterrupted)


def test_sigterm_to_all_saves_once_and_a_restart_has_the_same_weights(
    uninterrupted: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    ranks = start_training(out, DROPOUT_RUN, DROPOUT_RUN)
    wait_for_step(15, out, ranks)
    for _ in range(2):  # torchrun passes on a signal that its process group has already received
        for rank in ranks:
            os.kill(rank.process.pid, signal.SIGTERM)
    results = finish_ranks(ranks, 30)
    assert [result.exit_code for result in results] == [143, 143], results
    assert "stopped and saved at step" in only_error(results)
    finish_successfully(start_training(out, DROPOUT_RUN, DROPOUT_RUN))
    assert_same_run(out, uninterrupted)


def test_a_signal_to_one_rank_stops_all(tmp_path: Path) -> None:
    ranks = start_training(tmp_path / "run", ENDLESS_RUN, ENDLESS_RUN)
    wait_for_step(15, tmp_path / "run", ranks)
    os.kill(ranks[1].process.pid, signal.SIGINT)
    results = finish_ranks(ranks, 30)
    assert [result.exit_code for result in results] == [130, 130], results
    assert "stopped and saved" in only_error(results)


def test_a_loss_that_is_not_finite_ends_both_ranks_with_a_checkpoint(tmp_path: Path) -> None:
    run = rank_run("resnet20_cifar")
    optimizer = run.recipe.optimizer.replace(lr=1e30)
    run = run.replace(recipe=run.recipe.replace(optimizer=optimizer))
    results = finish_ranks(start_training(tmp_path / "run", run, run), 60)
    assert [result.exit_code for result in results] == [1, 1], results
    error = only_error(results)
    assert "the loss is not finite at step" in error
    step = int(re.search(r"at step (\d+)", error)[1])  # type: ignore[index]
    assert step > 1
    checkpoints = tmp_path / "run" / "checkpoints"
    assert str(checkpoints) in error
    assert [file.name for file in checkpoints.iterdir()] == [f"{step - 1:08d}.safetensors"]


def test_no_rank_ends_while_another_saves_before_the_end(tmp_path: Path) -> None:
    run = rank_run("resnet20_cifar")
    optimizer = run.recipe.optimizer.replace(lr=1e30)
    run = run.replace(recipe=run.recipe.replace(optimizer=optimizer))
    out = tmp_path / "run"
    ranks = start_ranks(tmp_path, [(train_on_a_slow_disk, train_arguments(out, run))] * 2)
    while all(rank.process.is_alive() for rank in ranks):
        time.sleep(0.02)
    # torchrun ends the others as soon as one has ended: the checkpoint must be there
    assert [file.suffix for file in (out / "checkpoints").iterdir()] == [".safetensors"]
    assert [result.exit_code for result in finish_ranks(ranks, 60)] == [1, 1]


@pytest.mark.parametrize(
    ("runs", "exit_code", "message"),
    [
        ([rank_run(batch=49)] * 2, 2, "a batch of 49 has no equal shares for 2 ranks"),
        (
            [rank_run(), rank_run(seed=1)],
            2,
            "rank 1 differs from rank 0 (seed: 0 -> 1): start all ranks with the same command, code and data",
        ),
        ([rank_run(), rank_run(data="folder:/nowhere")], 1, "/nowhere"),
    ],
    ids=["batch", "seed", "data"],
)
def test_ranks_that_do_not_fit_together_end_before_anything_is_written(
    runs: list[ca.Run], exit_code: int, message: str, tmp_path: Path
) -> None:
    results = finish_ranks(start_training(tmp_path / "run", *runs), 60)
    assert {result.exit_code for result in results} <= {exit_code, 2}, results
    assert message in only_error(results)
    assert not (tmp_path / "run").exists()


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    with socket.create_server(("", 0)) as server:
        port = server.getsockname()[1]
        ranks = start_training(tmp_path / "run", rank_run(), rank_run(), only=[0], port=port)
        results = finish_ranks(ranks, 60)
    assert results[0].exit_code == 2
    message = (
        f"port {port} cannot be used (Address already in use): choose another with torchrun --master-port"
    )
    assert message in only_error(results)


@pytest.mark.parametrize(
    ("present", "message"),
    [
        (0, "rank 1 has not joined within 1 s (expected 2 ranks)"),
        (1, "rank 1 cannot reach the other ranks at localhost, port"),
    ],
)
def test_ranks_that_do_not_join_are_named(present: int, message: str, tmp_path: Path) -> None:
    run = rank_run()
    ranks = start_training(tmp_path / "run", run, run, only=[present], CONVATLAS_TIMEOUT="1")
    results = finish_ranks(ranks, 60)
    assert results[0].exit_code == 1
    assert message in only_error(results)


def test_a_rank_that_hangs_is_named_and_all_end(tmp_path: Path) -> None:
    ranks = start_training(tmp_path / "run", ENDLESS_RUN, ENDLESS_RUN, CONVATLAS_TIMEOUT="5")
    wait_for_step(15, tmp_path / "run", ranks)
    os.kill(ranks[1].process.pid, signal.SIGSTOP)
    ranks[0].process.join(20)
    assert ranks[0].process.exitcode == 1
    os.kill(ranks[1].process.pid, signal.SIGCONT)
    results = finish_ranks(ranks, 10)
    assert results[1].exit_code == 1
    message = "rank 1 has made no progress for 5 s, and the others wait for it: it was last in"
    assert message in only_error(results[:1])


def test_invalid_variables_are_named() -> None:
    message = "WORLD_SIZE is not set, although others of torchrun's variables are"
    with pytest.raises(UsageError, match=message), init_ranks({"RANK": "0"}):
        pass
    with pytest.raises(UsageError, match="CONVATLAS_TIMEOUT is 'soon': expected seconds"):
        timeout_seconds({"CONVATLAS_TIMEOUT": "soon"})


def test_without_torchruns_variables_there_is_one_process() -> None:
    with init_ranks({}) as ranks:
        assert ranks == Ranks() == SINGLE_PROCESS
    variables = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
    with init_ranks(variables) as ranks:
        assert ranks.world_size == 1


def test_ranks_on_one_machine_share_its_cores() -> None:
    assert Runtime(torch.device("cpu"), "fp32", ranks=Ranks(local_world_size=10**6)).threads == 1


# Slow tests


def max_relative_difference(losses: list[float], expected: list[float]) -> float:
    return max(abs(a / b - 1) for a, b in zip(losses, expected, strict=True))


@pytest.mark.slow
def test_two_ranks_in_float32_differ_from_one_process_only_by_rounding(tmp_path: Path) -> None:
    """Batch norm and ReLU let any rounding grow at a realistic learning rate. The measure is how far the
    losses of one process move when its initial weights are changed by one rounding."""

    def float32_losses(perturbation: float) -> list[float]:
        return training_losses(
            SINGLE_PROCESS, "resnet20_cifar", 0.01, dtype=torch.float32, perturbation=perturbation
        )

    expected = float32_losses(0)
    perturbed = float32_losses(torch.finfo(torch.float32).eps / 2)
    results = finish_successfully(start_ranks(tmp_path, [(print_float32_losses,)] * 2))
    losses = json.loads(results[0].stdout)
    assert expected[-1] < 0.3 * expected[0]
    difference = max_relative_difference(losses, expected)
    assert 0 < difference < 5 * max_relative_difference(perturbed, expected)


def torchrun(out: Path, run: ca.Run, num_ranks: int = 2) -> Any:
    """The command that users type, in a process group of its own."""
    environment = os.environ | {"PYTHONPATH": str(SOURCE), "CONVATLAS_TIMEOUT": "60"}
    options = ["--standalone", "--nproc-per-node", str(num_ranks), "--max-restarts", "1"]
    command = [sys.executable, "-m", "torch.distributed.run", *options, "-m", "convatlas"]
    return subprocess.Popen(
        [*command, *train_arguments(out, run), "--json"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.mark.slow
def test_torchrun_restarts_a_killed_rank_with_the_same_weights(uninterrupted: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = torchrun(out, DROPOUT_RUN)
    while last_step(out) < 15:
        assert process.poll() is None, process.communicate()
        time.sleep(0.002)
    command = ["ps", "-o", "pid=", "--ppid", str(process.pid)]
    children = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    os.kill(int(children[1]), signal.SIGKILL)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert "continuing from step" in errors
    assert json.loads(output)["out"] == str(out)
    assert_same_run(out, uninterrupted)


@pytest.mark.slow
def test_three_ranks_end_with_the_same_weights_after_a_kill(tmp_path: Path) -> None:
    runs = [rank_run("resnet20_cifar", 40)] * 3
    finish_successfully(start_training(tmp_path / "uninterrupted", *runs))
    ranks = start_training(tmp_path / "killed", *runs)
    wait_for_step(15, tmp_path / "killed", ranks)
    ranks[2].process.kill()
    assert "rank 2 (of 3) has died" in only_error(finish_ranks(ranks, 30))
    finish_successfully(start_training(tmp_path / "killed", *runs))
    assert_same_run(tmp_path / "killed", tmp_path / "uninterrupted")
