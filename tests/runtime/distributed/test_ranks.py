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
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.rank_jobs import Ended, Started, evaluation, finish, losses, numbers, run, single, start, train
from helpers.small_runs import last_step, weights

import convatlas as ca
from convatlas.cli.main import main
from convatlas.errors import UsageError
from convatlas.runtime.distributed.ranks import SINGLE_PROCESS, Ranks
from convatlas.runtime.distributed.rendezvous import init_ranks, timeout_seconds
from convatlas.runtime.runtime import Runtime

SOURCE = Path(ca.__file__).parent.parent


def training(out: Path, *runs: ca.Run, **how: Any) -> list[Started]:
    """`convatlas train` by as many ranks as there are runs; they are one run, but where the test is that they differ."""
    return start(out.parent, [(main, train(out, run)) for run in runs], **how)


def finished(started: Sequence[Started]) -> list[Ended]:
    """Of those that must end well."""
    found = finish(started)
    assert [rank.code for rank in found] == [0] * len(found), found
    return found


def said(found: list[Ended]) -> str:
    """What all ranks together say on stderr: one line."""
    errors = "".join(rank.stderr for rank in found)
    assert errors.count("\n") == 1, errors
    assert errors.startswith("convatlas: "), errors
    return errors


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What two ranks found, and agree on."""
    first, second = (json.loads(rank.stdout) for rank in finished(start(tmp_path_factory.mktemp("numbers"), [(numbers,)] * 2)))
    assert {k: v for k, v in first.items() if k != "batch norm"} == {k: v for k, v in second.items() if k != "batch norm"}
    found_here: dict[str, Any] = first
    return found_here


def test_ranks_tell_each_other(found: dict[str, Any]) -> None:
    assert found["any"] == [1, 7]
    assert found["sum"] == [3.0, 1.0]
    assert found["gather"] == [{"rank": 0}, {"rank": 1}]
    assert found["first"] == "of 0"


def test_synchronised_batch_norm_is_torchs_on_the_whole_batch(found: dict[str, Any]) -> None:
    assert max(found["batch norm"]) < 1e-10


def test_two_ranks_answer_as_one_to_the_last_bit(found: dict[str, Any]) -> None:
    assert found["evaluation"] == [True] * 3
    assert evaluation(SINGLE_PROCESS, 50)


def test_two_ranks_have_the_losses_of_one_in_float64(found: dict[str, Any]) -> None:
    plain, synchronised = losses(SINGLE_PROCESS, "lenet5", 0.001), losses(SINGLE_PROCESS, "resnet20_cifar", 0.01)
    assert plain[-1] < 0.9 * plain[0]
    assert synchronised[-1] < 0.3 * synchronised[0]
    assert found["plain"] == pytest.approx(plain, rel=1e-10)
    assert found["parts"] == pytest.approx(plain, rel=1e-10)
    assert found["synchronised"] == pytest.approx(synchronised, rel=1e-10)
    assert found["unsynchronised"] != pytest.approx(synchronised[:3], rel=1e-4)  # it would be noticed


def logged(out: Path, split: str, key: str) -> list[float]:
    return [line[key] for line in map(json.loads, (out / "metrics.jsonl").read_text().splitlines()) if line["split"] == split]


@pytest.mark.parametrize("whole", [run("lenet5"), run("resnet20_cifar", batch=96, sync_batch_norm=True)], ids=lambda run: run.model.name)
def test_a_training_on_two_ranks_has_the_log_of_one(whole: ca.Run, tmp_path: Path) -> None:
    ca.train(whole, out=tmp_path / "one")
    ended = finished(training(tmp_path / "two", whole, whole))
    assert ended[1][1:] == ("", "")  # rank 1 is silent
    assert "2 ranks" in ended[0].stdout
    one, two = (logged(tmp_path / name, "train", "loss") for name in ("one", "two"))
    assert len(one) == 50
    assert one[-1] < 0.9 * one[0]
    assert two == pytest.approx(one, rel=1e-4)
    assert json.loads((tmp_path / "two" / "run.json").read_text())["environment"]["ranks"] == 2
    assert (tmp_path / "two" / "report.md").exists()


RANDOM = run(dropout=0.5, steps=60)
ENDLESS = run(steps=100000)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    finished(training(out, RANDOM, RANDOM))
    return out


def until(step: int, out: Path, started: Sequence[Started]) -> None:
    while last_step(out) < step:
        assert all(rank.process.is_alive() for rank in started), finish(started)
        time.sleep(0.002)


def same(out: Path, other: Path) -> None:
    assert weights(out) == weights(other)
    assert (out / "metrics.jsonl").read_bytes() == (other / "metrics.jsonl").read_bytes()


@pytest.mark.parametrize("victim", [0, 1])
def test_a_rank_that_is_killed_ends_the_other_and_goes_on_to_the_same_weights(victim: int, undisturbed: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    started = training(out, RANDOM, RANDOM)
    until(15, out, started)
    started[victim].process.kill()
    ended = finish(started, 30)
    assert ended[1 - victim].code == 1
    assert re.search(f"rank {victim} has gone|what the 2 ranks meet by has gone", said(ended))
    assert "continuing from step" in finished(training(out, RANDOM, RANDOM))[0].stdout
    same(out, undisturbed)


def test_sigterm_to_all_ranks_saves_once_and_goes_on_to_the_same_weights(undisturbed: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    started = training(out, RANDOM, RANDOM)
    until(15, out, started)
    for _ in range(2):  # torchrun passes on what its group got
        for rank in started:
            os.kill(rank.process.pid, signal.SIGTERM)
    ended = finish(started, 30)
    assert [rank.code for rank in ended] == [143, 143], ended
    assert "stopped and saved at step" in said(ended)
    finished(training(out, RANDOM, RANDOM))
    same(out, undisturbed)


def test_a_signal_to_one_rank_stops_all(tmp_path: Path) -> None:
    started = training(tmp_path / "run", ENDLESS, ENDLESS)
    until(15, tmp_path / "run", started)
    os.kill(started[1].process.pid, signal.SIGINT)
    ended = finish(started, 30)
    assert [rank.code for rank in ended] == [130, 130], ended
    assert "stopped and saved" in said(ended)


def test_a_loss_that_is_not_finite_ends_both_ranks_with_a_checkpoint(tmp_path: Path) -> None:
    whole = run("resnet20_cifar")
    absurd = whole.replace(recipe=whole.recipe.replace(optimizer=whole.recipe.optimizer.replace(lr=1e30)))
    ended = finish(training(tmp_path / "run", absurd, absurd), 60)
    assert [rank.code for rank in ended] == [1, 1], ended
    message = said(ended)
    assert "the loss is not finite at step" in message
    step = int(re.search(r"at step (\d+)", message)[1])  # type: ignore[index]
    assert step > 1
    assert str(tmp_path / "run" / "checkpoints") in message
    assert [file.name for file in (tmp_path / "run" / "checkpoints").iterdir()] == [f"{step - 1:08d}.safetensors"]


@pytest.mark.parametrize(
    ("runs", "code", "message"),
    [
        ([run(batch=49)] * 2, 2, "a batch of 49 has no equal shares for 2 ranks"),
        ([run(), run(seed=1)], 2, "rank 1 differs from rank 0 (seed: 0 -> 1): start all ranks with the same command, code and data"),
        ([run(), run(data="folder:/nowhere")], 1, "/nowhere"),
    ],
    ids=["batch", "seed", "data"],
)
def test_what_ranks_cannot_do_together_is_said_once_and_nothing_is_written(
    runs: list[ca.Run], code: int, message: str, tmp_path: Path
) -> None:
    ended = finish(training(tmp_path / "run", *runs), 60)
    assert {rank.code for rank in ended} <= {code, 2}, ended
    assert message in said(ended)
    assert not (tmp_path / "run").exists()


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    with socket.create_server(("", 0)) as server:
        port = server.getsockname()[1]
        ended = finish(training(tmp_path / "run", run(), run(), only=[0], port=port), 60)
    assert ended[0].code == 2
    assert f"port {port} cannot be used (Address already in use): choose another with torchrun --master-port" in said(ended)


@pytest.mark.parametrize(
    ("here", "message"),
    [(0, "rank 1 has not come within 1 s, of 2 in all"), (1, "rank 1 cannot reach the other ranks at localhost, port")],
)
def test_ranks_that_do_not_come_are_named(here: int, message: str, tmp_path: Path) -> None:
    ended = finish(training(tmp_path / "run", run(), run(), only=[here], CONVATLAS_PATIENCE="1"), 60)
    assert ended[0].code == 1
    assert message in said(ended)


def test_a_rank_that_hangs_is_named_and_all_end(tmp_path: Path) -> None:
    first, second = training(tmp_path / "run", ENDLESS, ENDLESS, CONVATLAS_PATIENCE="5")
    until(15, tmp_path / "run", [first, second])
    os.kill(second.process.pid, signal.SIGSTOP)
    first.process.join(20)
    assert first.process.exitcode == 1
    os.kill(second.process.pid, signal.SIGCONT)
    ended = finish([first, second], 10)
    assert ended[1].code == 1
    assert "rank 1 has not got on for 5 s, and the others wait for it: it was last in" in said(ended[:1])


def test_variables_that_make_no_sense_are_named() -> None:
    with pytest.raises(UsageError, match="WORLD_SIZE is not set, although others of torchrun's variables are"), init_ranks({"RANK": "0"}):
        pass
    with pytest.raises(UsageError, match="CONVATLAS_PATIENCE is 'soon': expected seconds"):
        timeout_seconds({"CONVATLAS_PATIENCE": "soon"})


def test_without_torchruns_variables_a_process_is_alone() -> None:
    with init_ranks({}) as ranks:
        assert ranks == Ranks() == SINGLE_PROCESS
    words = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    with init_ranks(dict(zip(words, "0101", strict=True))) as ranks:
        assert ranks.world_size == 1


def test_ranks_on_one_machine_share_its_cores() -> None:
    assert Runtime(torch.device("cpu"), "fp32", ranks=Ranks(local_world_size=10**6)).threads == 1


# In full


def apart(losses: list[float], others: list[float]) -> float:
    """The largest relative difference."""
    return max(abs(a / b - 1) for a, b in zip(losses, others, strict=True))


@pytest.mark.slow
def test_at_a_real_rate_two_ranks_in_float32_go_no_further_from_one_than_a_rounding_takes_it(tmp_path: Path) -> None:
    """Batch norm and ReLU let any rounding grow: what one process makes of weights that are moved by one is the measure."""
    one, other = (
        losses(SINGLE_PROCESS, "resnet20_cifar", 0.01, dtype=torch.float32, moved=m) for m in (0, torch.finfo(torch.float32).eps / 2)
    )
    two = json.loads(finished(start(tmp_path, [(single,)] * 2))[0].stdout)
    assert one[-1] < 0.3 * one[0]
    assert 0 < apart(two, one) < 5 * apart(other, one)


def torchrun(out: Path, whole: ca.Run, count: int = 2) -> Any:
    """The command that users type, in a group of its own."""
    environment = os.environ | {"PYTHONPATH": str(SOURCE), "CONVATLAS_PATIENCE": "60"}
    options = ["--standalone", "--nproc-per-node", str(count), "--max-restarts", "1"]
    return subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", *options, "-m", "convatlas", *train(out, whole), "--json"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.mark.slow
def test_torchrun_starts_a_killed_rank_again_and_it_ends_with_the_same_weights(undisturbed: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = torchrun(out, RANDOM)
    while last_step(out) < 15:
        assert process.poll() is None, process.communicate()
        time.sleep(0.002)
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, text=True, check=True)
    os.kill(int(listed.stdout.split()[1]), signal.SIGKILL)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert "continuing from step" in errors
    assert json.loads(output)["out"] == str(out)
    same(out, undisturbed)


@pytest.mark.slow
def test_three_ranks_end_with_the_same_weights_after_a_kill(tmp_path: Path) -> None:
    whole = run("resnet20_cifar", 40)
    finished(training(tmp_path / "whole", *[whole] * 3))
    started = training(tmp_path / "killed", *[whole] * 3)
    until(15, tmp_path / "killed", started)
    started[2].process.kill()
    assert "rank 2 has gone" in said(finish(started, 30))
    finished(training(tmp_path / "killed", *[whole] * 3))
    same(tmp_path / "killed", tmp_path / "whole")
