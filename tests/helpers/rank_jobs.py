"""The jobs that ranks run in the tests, and how the tests start ranks, as torchrun does."""

import copy
import itertools
import json
import os
import socket
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import convatlas as ca
from convatlas import models, recipes
from convatlas.cli.main import main
from convatlas.data import open_dataset
from convatlas.data.loading.eval_batches import EvalBatches
from convatlas.data.loading.labeled_samples import LabeledSamples
from convatlas.data.loading.train_batches import TrainBatches
from convatlas.data.transforms.normalize import PixelRange
from convatlas.data.transforms.preprocessing import fixed_size_preprocessing
from convatlas.evaluation.predict import predict_split
from convatlas.evaluation.predictions import Predictions
from convatlas.layers.batch_norm import SyncBatchNorm2d, convert_sync_batchnorm
from convatlas.runtime.distributed.ranks import SINGLE_PROCESS, Ranks
from convatlas.runtime.distributed.rendezvous import init_ranks
from convatlas.runtime.runtime import Runtime
from convatlas.storage import checked_safetensors
from convatlas.training import checkpoint
from convatlas.training.objective import Objective
from convatlas.training.run import RunFile, serialize_run_file
from convatlas.training.step import accumulate_gradients
from helpers.small_runs import PROCESSES

CPU = torch.device("cpu")
NETWORK_ARGUMENTS: dict[str, dict[str, Any]] = {"lenet5": {}, "resnet20_cifar": {"image_size": 16}}
# small learning rates, so that rounding in float32 does not grow too much for a comparison
LEARNING_RATES = {"lenet5": 0.001, "resnet20_cifar": 0.0001}
_file_number = itertools.count()


class RankProcess(NamedTuple):
    """The process of a rank, and the files with its output."""

    process: Any
    stdout: Path
    stderr: Path


class RankResult(NamedTuple):
    exit_code: int
    stdout: str
    stderr: str


def free_port() -> int:
    with socket.create_server(("localhost", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def start_ranks(
    folder: Path,
    jobs: Sequence[tuple[Any, ...]],
    only: Sequence[int] | None = None,
    port: int | None = None,
    **variables: str,
) -> list[RankProcess]:
    """Start each of `jobs`, a function and its arguments, as a rank in a process group of its own, with one
    thread. With `only`, the other ranks are not started."""
    environment = {
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": str(port or free_port()),
        "WORLD_SIZE": str(len(jobs)),
        "LOCAL_WORLD_SIZE": str(len(jobs)),
        "CONVATLAS_TIMEOUT": "60",
        **variables,
    }
    ranks = []
    for rank in only or range(len(jobs)):
        stdout, stderr = (folder / f"{next(_file_number)}.{stream}" for stream in ("out", "err"))
        rank_environment = environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        process = PROCESSES.Process(target=_run_rank, args=(rank_environment, stdout, stderr, *jobs[rank]))
        process.start()
        ranks.append(RankProcess(process, stdout, stderr))
    return ranks


def _run_rank(
    environment: dict[str, str], stdout: Path, stderr: Path, job: Callable[..., int | None], *arguments: Any
) -> None:
    os.setsid()
    os.sched_setaffinity(
        0, range(os.cpu_count() or 1)
    )  # not only the core of the process that runs the tests
    torch.set_num_threads(1)
    os.environ.update(environment)
    for descriptor, path in ((1, stdout), (2, stderr)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), descriptor)
    sys.exit(job(*arguments))


def finish_ranks(ranks: Sequence[RankProcess], timeout: float = 100) -> list[RankResult]:
    """Wait for the ranks, kill those that have not ended within the timeout in seconds, and read their
    output."""
    for rank in ranks:
        rank.process.join(timeout)
    for rank in ranks:
        rank.process.kill()
        rank.process.join()
    return [
        RankResult(rank.process.exitcode, rank.stdout.read_text(), rank.stderr.read_text()) for rank in ranks
    ]


def rank_run(
    network: str = "lenet5", steps: int = 50, dropout: float = 0.0, batch: int = 48, **changes: Any
) -> ca.Run:
    """A tiny run on digits that logs every step."""
    arguments = NETWORK_ARGUMENTS[network] | ({"dropout": dropout} if network == "lenet5" else {})
    architecture = models.get_architecture(network, width=0.25, **arguments)
    run = ca.Run(model=architecture, data=changes.pop("data", "digits"), recipe="quick")
    optimizer = run.recipe.optimizer.replace(lr=LEARNING_RATES[network])
    budget = recipes.Iterations(steps)
    recipe = run.recipe.replace(batch=batch, budget=budget, augment=(), optimizer=optimizer)
    return run.replace(recipe=recipe, log_every=1, save_every=10, precision="fp32", **changes)


def write_run_file(run: ca.Run, file: Path) -> Path:
    file.write_bytes(serialize_run_file(RunFile(run=run, environment={})))
    return file


def train_arguments(out: Path, run: ca.Run) -> list[str]:
    """The arguments of `convatlas` that train `run` into `out`."""
    file = write_run_file(run, out.parent / f"{run.id}.json")
    return ["train", str(file), "--out", str(out), "--workers", "0"]


def train_on_a_slow_disk(arguments: list[str]) -> int:
    """Run `convatlas ARGUMENTS`; every checkpoint takes seconds to write."""
    write_checked = checked_safetensors.write_checked

    def write_slowly(*written: Any) -> None:
        time.sleep(3)
        write_checked(*written)

    setattr(checkpoint, "write_checked", write_slowly)  # noqa: B010
    return main(arguments)


def training_losses(
    ranks: Ranks,
    network: str,
    lr: float,
    sync_batch_norm: bool = False,
    micro_batch: int | None = None,
    steps: int = 50,
    dtype: torch.dtype = torch.float64,
    perturbation: float = 0.0,
) -> list[float]:
    """The losses of a training without a schedule. `perturbation`: the relative standard deviation of noise
    on the initial weights."""
    torch.manual_seed(0)
    side = 16 if network == "resnet20_cifar" else 32
    model = models.create_model(network, width=0.25, num_classes=10, in_chans=1, **NETWORK_ARGUMENTS[network])
    with torch.no_grad():
        for parameter in model.parameters() if perturbation else ():
            parameter.mul_(1 + perturbation * torch.randn_like(parameter))
    if sync_batch_norm:
        convert_sync_batchnorm(model, ranks)
    split = open_dataset("digits").splits["train"]
    preprocessing = fixed_size_preprocessing(1, (8, 8), (side, side))

    def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.cross_entropy(logits, targets, reduction="none")

    normalizer = PixelRange(low=0, high=1).fit(split.images, preprocessing)
    # not one of the package's losses, which compute in float32
    objective = Objective(model, normalizer, cross_entropy).to(dtype)  # type: ignore[arg-type]
    runtime = Runtime(CPU, "fp32", ranks=ranks)
    runtime.to_device(objective)
    batches = TrainBatches(LabeledSamples(split, preprocessing), (), 48, 0, ranks.rank, ranks.world_size)
    forward_backward = runtime.compiled_forward_backward(objective, print)
    optimizer = torch.optim.SGD(model.parameters(), lr, momentum=0.9)
    losses = []
    for step in range(steps):
        batch = batches[step]
        assert not isinstance(batch, Exception)
        loss, _ = accumulate_gradients(
            forward_backward, batches, batch, step, micro_batch, lambda loss, share: None
        )
        losses.append(ranks.all_reduce_sum(loss).item() / ranks.world_size)
        runtime.optimizer_step(optimizer)
    return losses


def batch_norm_difference(ranks: Ranks, momentum: float | None, steps: int = 3) -> float:
    """The largest difference between SyncBatchNorm2d and torch's batch norm on the full batch: of outputs,
    gradients, running statistics, and outputs in evaluation."""
    torch.manual_seed(0)
    batch_norm = nn.BatchNorm2d(5, eps=1e-3, momentum=momentum).double()
    nn.init.uniform_(batch_norm.weight)
    nn.init.uniform_(batch_norm.bias)
    sync_batch_norm = SyncBatchNorm2d(copy.deepcopy(batch_norm), ranks)

    def share(tensor: Tensor) -> Tensor:
        return tensor.chunk(ranks.world_size)[ranks.rank]

    max_difference = 0.0
    for _ in range(steps):
        images, weights = torch.randn(2, 8, 5, 4, 3, dtype=torch.float64) * 3 + 1
        x_share = share(images).clone().requires_grad_()
        x = images.clone().requires_grad_()
        y_share = sync_batch_norm(x_share)
        y = batch_norm(x)
        (y_share.sin() * share(weights)).sum().backward()
        (y.sin() * weights).sum().backward()
        assert x_share.grad is not None
        assert x.grad is not None
        pairs = [(y_share, share(y)), (x_share.grad, share(x.grad))]
        for p, q in zip(sync_batch_norm.parameters(), batch_norm.parameters(), strict=True):
            pairs.append((ranks.all_reduce_sum(p.grad), q.grad))  # type: ignore[arg-type]
        pairs += list(zip(sync_batch_norm.buffers(), batch_norm.buffers(), strict=True))
        max_difference = max([max_difference, *(float((a - b).abs().max()) for a, b in pairs)])
        sync_batch_norm.zero_grad()
        batch_norm.zero_grad()
    evaluated = sync_batch_norm.eval()(images) - batch_norm.eval()(images)
    return max(max_difference, float(evaluated.abs().max()))


def predictions_are_identical(ranks: Ranks, batch: int) -> bool:
    """Whether the predictions of all ranks together are those of a single process, to the last bit."""
    torch.manual_seed(0)
    model = models.create_model("lenet5", width=0.25, num_classes=10, in_chans=1).eval()
    split = open_dataset("digits").splits["test"]
    preprocessing = fixed_size_preprocessing(1, (8, 8), (32, 32))

    def predict(ranks: Ranks) -> Predictions:
        batches = EvalBatches(split, preprocessing, batch, ranks.rank, ranks.world_size)
        return predict_split(lambda x: model(x.float() / 255), batches, CPU, 0, ranks=ranks)

    expected = predict(SINGLE_PROCESS)
    predictions = predict(ranks)
    return all(
        bool((getattr(predictions, name) == getattr(expected, name)).all())
        for name in ("logits", "labels", "indices")
    )


def print_measurements() -> None:
    """Print the results of all collectives, and of trainings and evaluations, as JSON."""
    with init_ranks() as ranks:
        torch.set_num_threads(1)
        measurements = {
            "max": ranks.all_reduce_max(ranks.rank, 7 - ranks.rank),
            "sum": ranks.all_reduce_sum(torch.tensor([1.5, ranks.rank])).tolist(),
            "gathered": ranks.all_gather({"rank": ranks.rank}),
            "main": ranks.run_on_main(lambda: f"of {ranks.rank}"),
            "batch norm": [batch_norm_difference(ranks, momentum) for momentum in (0.1, None)],
            "identical predictions": [predictions_are_identical(ranks, batch) for batch in (50, 60, 250)],
            "losses": training_losses(ranks, "lenet5", 0.001),
            "losses in micro-batches": training_losses(ranks, "lenet5", 0.001, micro_batch=10),
            "losses, synchronised": training_losses(ranks, "resnet20_cifar", 0.01, True),
            "losses, unsynchronised": training_losses(ranks, "resnet20_cifar", 0.01, steps=3),
        }
    print(json.dumps(measurements))


def print_float32_losses() -> None:
    """Print the losses of a training in float32 at a realistic learning rate, as JSON."""
    with init_ranks() as ranks:
        print(json.dumps(training_losses(ranks, "resnet20_cifar", 0.01, True, dtype=torch.float32)))


def run_code(code: str) -> None:
    """Run a block of the documentation."""
    exec(compile(code, "documentation", "exec"), {"__name__": "documentation"})
