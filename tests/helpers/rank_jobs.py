"""What each of several processes does in the tests of ranks; and how they are started, as torchrun does."""

import copy
import itertools
import json
import os
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import convatlas as ca
from convatlas import models, recipes
from convatlas.data import open_dataset
from convatlas.data.loading.eval_batches import EvalBatches
from convatlas.data.loading.train_batches import TrainBatches
from convatlas.data.transforms.normalize import PixelRange
from convatlas.data.transforms.preprocessing import fixed_size_preprocessing
from convatlas.evaluation.predict import predict_split
from convatlas.layers.batch_norm import SyncBatchNorm2d, convert_sync_batchnorm
from convatlas.runtime.distributed.ranks import SINGLE_PROCESS, Ranks
from convatlas.runtime.distributed.rendezvous import init_ranks
from convatlas.runtime.runtime import Runtime
from convatlas.training.objective import Objective
from convatlas.training.run import RunFile, serialize_run_file
from convatlas.training.step import accumulate_gradients
from helpers.small_runs import PROCESSES

CPU = torch.device("cpu")
SIZES: dict[str, dict[str, Any]] = {"lenet5": {}, "resnet20_cifar": {"image_size": 16}}
RATES = {"lenet5": 0.001, "resnet20_cifar": 0.0001}  # in float32 rounding must not grow beyond comparison
_number = itertools.count()


class Started(NamedTuple):
    """A rank, and the files that take what it says."""

    process: Any
    stdout: Path
    stderr: Path


class Ended(NamedTuple):
    code: int
    stdout: str
    stderr: str


def free_port() -> int:
    with socket.create_server(("localhost", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def start(
    folder: Path, jobs: Sequence[tuple[Any, ...]], only: Sequence[int] | None = None, port: int | None = None, **more: str
) -> list[Started]:
    """Each of `jobs`, a function and its arguments, as a rank in a group of its own, with one thread; of these `only` some."""
    shared = {
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": str(port or free_port()),
        "WORLD_SIZE": str(len(jobs)),
        "LOCAL_WORLD_SIZE": str(len(jobs)),
        "CONVATLAS_PATIENCE": "60",
        **more,
    }
    started = []
    for rank in only or range(len(jobs)):
        said = [folder / f"{next(_number)}.{stream}" for stream in ("out", "err")]
        variables = shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        process = PROCESSES.Process(target=_rank, args=(variables, *said, *jobs[rank]))
        process.start()
        started.append(Started(process, *said))
    return started


def _rank(variables: dict[str, str], stdout: Path, stderr: Path, job: Callable[..., int | None], *arguments: Any) -> None:
    os.setsid()
    os.sched_setaffinity(0, range(os.cpu_count() or 1))  # the tests' own process has a core for itself
    torch.set_num_threads(1)
    os.environ.update(variables)
    for stream, path in ((1, stdout), (2, stderr)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), stream)
    sys.exit(job(*arguments))


def finish(started: Sequence[Started], seconds: float = 100) -> list[Ended]:
    """What they said, and the codes with which they ended, in time."""
    for process, _, _ in started:
        process.join(seconds)
    for process, _, _ in started:
        process.kill()
        process.join()
    return [Ended(process.exitcode, stdout.read_text(), stderr.read_text()) for process, stdout, stderr in started]


def run(network: str = "lenet5", steps: int = 50, dropout: float = 0.0, batch: int = 48, **changes: Any) -> ca.Run:
    """Tiny, on digits, every step in the log."""
    arguments = SIZES[network] | ({"dropout": dropout} if network == "lenet5" else {})
    whole = ca.Run(model=models.get_architecture(network, width=0.25, **arguments), data=changes.pop("data", "digits"), recipe="quick")
    optimizer = whole.recipe.optimizer.replace(lr=RATES[network])
    recipe = whole.recipe.replace(batch=batch, budget=recipes.Iterations(steps), augment=(), optimizer=optimizer)
    return whole.replace(recipe=recipe, log_every=1, save_every=10, precision="fp32", **changes)


def stored(run: ca.Run, file: Path) -> Path:
    file.write_bytes(serialize_run_file(RunFile(run=run, environment={})))
    return file


def train(out: Path, whole: ca.Run) -> list[str]:
    """The words after `convatlas` that train `whole` into `out`."""
    file = out.parent / f"{whole.id}.json"
    return ["train", str(stored(whole, file)), "--out", str(out), "--workers", "0"]


def losses(
    ranks: Ranks,
    network: str,
    rate: float,
    synchronised: bool = False,
    micro_batch: int | None = None,
    steps: int = 50,
    dtype: torch.dtype = torch.float64,
    moved: float = 0.0,
) -> list[float]:
    """Of a training without a schedule. `moved`: the first weights by that much of each, at random."""
    torch.manual_seed(0)
    side = 16 if network == "resnet20_cifar" else 32
    model = models.create_model(network, width=0.25, num_classes=10, in_chans=1, **SIZES[network])
    with torch.no_grad():
        for weights in model.parameters() if moved else ():
            weights.mul_(1 + moved * torch.randn_like(weights))
    if synchronised:
        convert_sync_batchnorm(model, ranks)
    split, geometry = open_dataset("digits").splits["train"], fixed_size_preprocessing(1, (8, 8), (side, side))

    def loss(logits: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.cross_entropy(logits, targets, reduction="none")

    standardiser = PixelRange(low=0, high=1).fit(split.images, geometry)
    objective = Objective(model, standardiser, loss).to(dtype)  # type: ignore[arg-type]  # ours are in float32
    runtime = Runtime(CPU, "fp32", ranks=ranks)
    runtime.to_device(objective)
    data = TrainBatches(split, geometry, (), 48, 0, None, ranks.rank, ranks.world_size)
    function, optimizer = runtime.compiled_forward_backward(objective, print), torch.optim.SGD(model.parameters(), rate, momentum=0.9)
    found = []
    for step in range(steps):
        batch = data[step]
        assert not isinstance(batch, Exception)
        value, _ = accumulate_gradients(function, data, batch, step, micro_batch, lambda loss, share: None)
        found.append(ranks.all_reduce_sum(value).item() / ranks.world_size)
        runtime.optimizer_step(optimizer)
    return found


def batch_norm(ranks: Ranks, momentum: float | None, steps: int = 3) -> float:
    """The largest difference from torch's on the whole batch: forward, gradients, running statistics, evaluation."""
    torch.manual_seed(0)
    whole, worst = nn.BatchNorm2d(5, eps=1e-3, momentum=momentum).double(), 0.0
    nn.init.uniform_(whole.weight)
    nn.init.uniform_(whole.bias)
    ours = SyncBatchNorm2d(copy.deepcopy(whole), ranks)
    for _ in range(steps):
        images, weights = torch.randn(2, 8, 5, 4, 3, dtype=torch.float64) * 3 + 1
        shares = images.chunk(ranks.world_size)
        own, all_ = shares[ranks.rank].clone().requires_grad_(), images.clone().requires_grad_()
        mine, theirs = ours(own), whole(all_)
        (mine.sin() * weights.chunk(ranks.world_size)[ranks.rank]).sum().backward()
        (theirs.sin() * weights).sum().backward()
        pairs = [(mine, theirs.chunk(ranks.world_size)[ranks.rank]), (own.grad, all_.grad.chunk(ranks.world_size)[ranks.rank])]
        pairs += [(ranks.all_reduce_sum(p.grad), q.grad) for p, q in zip(ours.parameters(), whole.parameters(), strict=True)]  # type: ignore[arg-type]
        pairs += list(zip(ours.buffers(), whole.buffers(), strict=True))
        worst = max([worst, *(float((a - b).abs().max()) for a, b in pairs)])
        ours.zero_grad()
        whole.zero_grad()
    return max(worst, float((ours.eval()(images) - whole.eval()(images)).abs().max()))


def evaluation(ranks: Ranks, batch: int) -> bool:
    """Whether the answers of all ranks together are those of one, to the last bit."""
    torch.manual_seed(0)
    model = models.create_model("lenet5", width=0.25, num_classes=10, in_chans=1).eval()
    split, geometry = open_dataset("digits").splits["test"], fixed_size_preprocessing(1, (8, 8), (32, 32))

    def ask(ranks: Ranks) -> Any:
        return predict_split(
            lambda x: model(x.float() / 255), EvalBatches(split, geometry, batch, ranks.rank, ranks.world_size), CPU, 0, ranks=ranks
        )

    one, all_ = ask(SINGLE_PROCESS), ask(ranks)
    return all(bool((getattr(one, name) == getattr(all_, name)).all()) for name in ("logits", "labels", "indices"))


def numbers() -> None:
    with init_ranks() as ranks:
        torch.set_num_threads(1)
        found = {
            "any": ranks.all_reduce_max(ranks.rank, 7 - ranks.rank),
            "sum": ranks.all_reduce_sum(torch.tensor([1.5, ranks.rank])).tolist(),
            "gather": ranks.all_gather({"rank": ranks.rank}),
            "first": ranks.run_on_main(lambda: f"of {ranks.rank}"),
            "batch norm": [batch_norm(ranks, momentum) for momentum in (0.1, None)],
            "evaluation": [evaluation(ranks, batch) for batch in (50, 60, 250)],
            "plain": losses(ranks, "lenet5", 0.001),
            "parts": losses(ranks, "lenet5", 0.001, micro_batch=10),
            "synchronised": losses(ranks, "resnet20_cifar", 0.01, True),
            "unsynchronised": losses(ranks, "resnet20_cifar", 0.01, steps=3),
        }
    print(json.dumps(found))


def single() -> None:
    """In float32, at a real rate."""
    with init_ranks() as ranks:
        print(json.dumps(losses(ranks, "resnet20_cifar", 0.01, True, dtype=torch.float32)))
