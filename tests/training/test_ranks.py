"""Several processes train as one: the same losses, the same digits, the same weights after any interruption; and what cannot be done
together is said once."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from ranks_jobs import HERE, SOURCE, evaluation, finish, free_port, losses, run, start
from small import last_step, weights

import convatlas as ca
from convatlas.errors import UsageError
from convatlas.runtime.device import Runtime
from convatlas.runtime.ranks import ALONE, Ranks, join, patience

JOBS = str(HERE / "ranks_jobs.py")


def training(out: Path, count: int = 2, by_rank: dict[str, Any] | None = None, changes: dict[str, Any] | None = None, **how: Any) -> Any:
    return start(count, [JOBS, "train", str(out), json.dumps(changes or {}), json.dumps(by_rank or {})], **how)


def said(found: list[tuple[int, str, str]]) -> str:
    """What all ranks together say on stderr: one line."""
    errors = "".join(error for _, _, error in found)
    assert errors.count("\n") == 1, errors
    assert errors.startswith("convatlas: "), errors
    return errors


@pytest.fixture(scope="module")
def numbers() -> dict[str, Any]:
    """What two ranks found, and agree on."""
    found = finish(start(2, [JOBS, "numbers"]))
    assert [code for code, _, _ in found] == [0, 0], found
    first, second = (json.loads(out) for _, out, _ in found)
    assert {k: v for k, v in first.items() if k != "batch norm"} == {k: v for k, v in second.items() if k != "batch norm"}
    found_here: dict[str, Any] = first
    return found_here


def test_ranks_tell_each_other(numbers: dict[str, Any]) -> None:
    assert numbers["any"] == [1, 7]
    assert numbers["sum"] == [3.0, 1.0]
    assert numbers["gather"] == [{"rank": 0}, {"rank": 1}]
    assert numbers["first"] == "of 0"


def test_synchronised_batch_norm_is_torchs_on_the_whole_batch(numbers: dict[str, Any]) -> None:
    assert max(numbers["batch norm"]) < 1e-10


def test_two_ranks_answer_as_one_to_the_last_bit(numbers: dict[str, Any]) -> None:
    assert numbers["evaluation"] == [True] * 3
    assert evaluation(ALONE, 50)


def test_two_ranks_have_the_losses_of_one_in_float64(numbers: dict[str, Any]) -> None:
    plain, synchronised = losses(ALONE, "lenet5", False), losses(ALONE, "resnet20_cifar", False)
    assert plain[-1] < plain[0]
    assert numbers["plain"] == pytest.approx(plain, rel=1e-10)
    assert numbers["parts"] == pytest.approx(plain, rel=1e-10)
    assert numbers["synchronised"] == pytest.approx(synchronised, rel=1e-10)
    assert numbers["unsynchronised"] != pytest.approx(synchronised[:3], rel=1e-4)  # it would be noticed


def logged(out: Path, split: str, key: str) -> list[float]:
    return [line[key] for line in map(json.loads, (out / "metrics.jsonl").read_text().splitlines()) if line["split"] == split]


@pytest.mark.parametrize(("network", "synchronised"), [("lenet5", False), ("resnet20_cifar", True)])
def test_a_training_on_two_ranks_has_the_log_of_one(network: str, synchronised: bool, tmp_path: Path) -> None:
    ca.train(run(network, 50), out=tmp_path / "one")
    found = finish(training(tmp_path / "two", changes={"network": network, "sync_batch_norm": synchronised}))
    assert [code for code, _, _ in found] == [0, 0], found
    assert found[1][1:] == ("", "")  # rank 1 is silent
    assert "2 ranks" in found[0][1]
    assert logged(tmp_path / "two", "train", "loss") == pytest.approx(logged(tmp_path / "one", "train", "loss"), rel=1e-4)
    assert len(logged(tmp_path / "two", "train", "loss")) == 50
    assert json.loads((tmp_path / "two" / "run.json").read_text())["environment"]["ranks"] == 2
    assert (tmp_path / "two" / "report.md").exists()


CHANGES = {"dropout": 0.5, "steps": 60}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    found = finish(training(out, changes=CHANGES))
    assert [code for code, _, _ in found] == [0, 0], found
    return out


def until(step: int, out: Path, processes: list[Any]) -> None:
    while last_step(out) < step:
        assert all(process.poll() is None for process in processes), finish(processes)
        time.sleep(0.002)


def same(out: Path, other: Path) -> None:
    assert weights(out) == weights(other)
    assert (out / "metrics.jsonl").read_bytes() == (other / "metrics.jsonl").read_bytes()


@pytest.mark.parametrize("victim", [0, 1])
def test_a_rank_that_is_killed_ends_the_other_and_goes_on_to_the_same_weights(victim: int, undisturbed: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    processes = training(out, changes=CHANGES)
    until(15, out, processes)
    processes[victim].kill()
    found = finish(processes, 30)
    assert found[1 - victim][0] == 1
    assert re.search(f"rank {victim} has gone|what the 2 ranks meet by has gone", said(found))
    found = finish(training(out, changes=CHANGES))
    assert [code for code, _, _ in found] == [0, 0], found
    assert "continuing from step" in found[0][1]
    same(out, undisturbed)


def test_sigterm_to_all_ranks_saves_once_and_goes_on_to_the_same_weights(undisturbed: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    processes = training(out, changes=CHANGES)
    until(15, out, processes)
    for _ in range(2):  # torchrun passes on what its group got
        for process in processes:
            process.send_signal(signal.SIGTERM)
    found = finish(processes, 30)
    assert [code for code, _, _ in found] == [143, 143], found
    assert "stopped and saved at step" in said(found)
    found = finish(training(out, changes=CHANGES))
    assert [code for code, _, _ in found] == [0, 0], found
    same(out, undisturbed)


def test_a_signal_to_one_rank_stops_all(tmp_path: Path) -> None:
    processes = training(tmp_path / "run", changes={"steps": 10000})
    until(15, tmp_path / "run", processes)
    processes[1].send_signal(signal.SIGINT)
    found = finish(processes, 30)
    assert [code for code, _, _ in found] == [130, 130], found
    assert "stopped and saved" in said(found)


@pytest.mark.parametrize(
    ("changes", "by_rank", "code", "message"),
    [
        ({"batch": 49}, {}, 2, "a batch of 49 has no equal shares for 2 ranks"),
        ({}, {"1": {"seed": 1}}, 2, "rank 1 differs from rank 0 (seed: 0 -> 1): start all ranks with the same command, code and data"),
        ({}, {"1": {"data": "folder:/nowhere"}}, 1, "/nowhere"),
    ],
)
def test_what_ranks_cannot_do_together_is_said_once_and_nothing_is_written(
    changes: dict[str, Any], by_rank: dict[str, Any], code: int, message: str, tmp_path: Path
) -> None:
    found = finish(training(tmp_path / "run", changes=changes, by_rank=by_rank), 60)
    assert {c for c, _, _ in found} <= {code, 2}, found
    assert message in said(found)
    assert not (tmp_path / "run").exists()


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    with socket.create_server(("", 0)) as server:
        port = server.getsockname()[1]
        found = finish(training(tmp_path / "run", only=[0], port=port), 60)
    assert found[0][0] == 2
    assert f"port {port} cannot be used (Address already in use): choose another with torchrun --master-port" in said(found)


def test_ranks_that_do_not_come_are_named(tmp_path: Path) -> None:
    found = finish(training(tmp_path / "run", only=[0], CONVATLAS_PATIENCE="1"), 60)
    assert found[0][0] == 1
    assert "rank 1 has not come within 1 s, of 2 in all" in said(found)
    found = finish(training(tmp_path / "run", only=[1], CONVATLAS_PATIENCE="1"), 60)
    assert found[0][0] == 1
    assert "rank 1 cannot reach the other ranks at localhost, port" in said(found)


def test_a_rank_that_hangs_is_named_and_all_end(tmp_path: Path) -> None:
    processes = training(tmp_path / "run", changes={"steps": 100000}, CONVATLAS_PATIENCE="8")
    until(15, tmp_path / "run", processes)
    processes[1].send_signal(signal.SIGSTOP)
    began = time.monotonic()
    errors = processes[0].communicate(timeout=30)[1]
    assert processes[0].returncode == 1
    assert time.monotonic() - began < 20
    assert "rank 1 has not got on for 8 s, and the others wait for it: it was last in" in errors
    assert errors.count("\n") == 1
    processes[1].send_signal(signal.SIGCONT)
    assert finish(processes[1:], 10)[0][0] == 1


def test_variables_that_make_no_sense_are_named() -> None:
    with pytest.raises(UsageError, match="WORLD_SIZE is not set, although others of torchrun's variables are"), join({"RANK": "0"}):
        pass
    with pytest.raises(UsageError, match="CONVATLAS_PATIENCE is 'soon': expected seconds"):
        patience({"CONVATLAS_PATIENCE": "soon"})


def test_without_torchruns_variables_a_process_is_alone() -> None:
    with join({}) as ranks:
        assert ranks == Ranks() == ALONE
    words = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    with join(dict(zip(words, "0101", strict=True))) as ranks:
        assert ranks.count == 1


def test_ranks_on_one_machine_share_its_cores() -> None:
    import torch

    assert Runtime(torch.device("cpu"), "fp32", ranks=Ranks(beside=10**6)).threads == 1


def torchrun(words: list[str], count: int = 2) -> Any:
    """In a group of its own; one thread a rank."""
    environment = os.environ | {"PYTHONPATH": f"{SOURCE}:{HERE}", "MASTER_PORT": str(free_port())}
    options = ["--standalone", "--nproc-per-node", str(count), "--max-restarts", "1"]
    return subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", *options, *words],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.mark.slow
def test_torchrun_starts_a_killed_rank_again_and_it_ends_with_the_same_weights(undisturbed: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = torchrun([JOBS, "train", str(out), json.dumps(CHANGES)])
    until(15, out, [process])
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, text=True, check=True)
    os.kill(int(listed.stdout.split()[1]), signal.SIGKILL)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert "continuing from step" in output
    same(out, undisturbed)


@pytest.mark.slow
def test_the_command_is_the_same_under_torchrun(tmp_path: Path) -> None:
    words = ["-m", "convatlas", "train", "lenet5", "--data", "digits", "--epochs", "2", "--out", str(tmp_path / "run"), "--json"]
    output, errors = torchrun(words).communicate(timeout=120)
    assert json.loads(output)["out"] == str(tmp_path / "run"), errors


@pytest.mark.slow
def test_three_ranks_end_with_the_same_weights_after_a_kill(tmp_path: Path) -> None:
    changes = {"network": "resnet20_cifar", "steps": 40}
    found = finish(training(tmp_path / "whole", 3, changes=changes))
    assert [code for code, _, _ in found] == [0, 0, 0], found
    processes = training(tmp_path / "killed", 3, changes=changes)
    until(15, tmp_path / "killed", processes)
    processes[2].kill()
    assert "rank 2 has gone" in said(finish(processes, 30))
    found = finish(training(tmp_path / "killed", 3, changes=changes))
    assert [code for code, _, _ in found] == [0, 0, 0], found
    same(tmp_path / "killed", tmp_path / "whole")
