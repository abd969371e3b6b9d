"""What each of several processes does in the tests of ranks; and how they are started, as torchrun does."""

import copy
import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import convatlas as ca
from convatlas import models, recipes
from convatlas.cli.main import _fail
from convatlas.data import open_dataset
from convatlas.data.loader import Fixed, Training
from convatlas.data.preprocessing import PixelRange, fit
from convatlas.errors import Said, UserError
from convatlas.evaluation.protocol import answers
from convatlas.layers.batch_norm import SynchronisedBatchNorm2d, synchronise
from convatlas.runtime.device import Runtime
from convatlas.runtime.ranks import ALONE, Ranks, join
from convatlas.runtime.stopping import Stopped
from convatlas.training.objective import Objective
from convatlas.training.step import gradients

CPU = torch.device("cpu")

HERE = Path(__file__).parent
SOURCE = HERE.parent.parent / "src"


def free_port() -> int:
    with socket.create_server(("localhost", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def start(count: int, words: Sequence[str], port: int | None = None, only: Sequence[int] | None = None, **more: str) -> list[Any]:
    """`python WORDS` as `count` ranks (of which `only` these are started), each in a group of its own with one thread."""
    shared = os.environ | {
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": str(port or free_port()),
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": f"{SOURCE}:{HERE}",
        "TORCH_CPP_LOG_LEVEL": "ERROR",
        "CONVATLAS_PATIENCE": "60",
        **more,
    }
    return [
        subprocess.Popen(
            [sys.executable, *words],
            env=shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=lambda: os.sched_setaffinity(0, range(os.cpu_count() or 1)),  # the tests' own process has a core for itself
        )
        for rank in only or range(count)
    ]


def finish(processes: Sequence[Any], seconds: float = 100) -> list[tuple[int, str, str]]:
    """Exit code, stdout and stderr of each."""
    try:
        texts = [process.communicate(timeout=seconds) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, *text) for process, text in zip(processes, texts, strict=True)]


def run(network: str, steps: int, **changes: Any) -> ca.Run:
    """Tiny, on digits, every step in the log."""
    recipe: dict[str, Any] = {name: changes.pop(name) for name in ("micro_batch", "batch") if name in changes}
    dropout = changes.pop("dropout", 0.0)
    model = models.describe(network, width=0.25, **SIZES[network] | {"dropout": dropout} if network == "lenet5" else SIZES[network])
    whole = ca.Run(model=model, data=changes.pop("data", "digits"), recipe="quick")
    optimizer = whole.recipe.optimizer.but(lr=RATES[network])
    recipe = {"batch": 48, "budget": recipes.Iterations(steps), "augment": (), "optimizer": optimizer} | recipe
    return whole.but(recipe=whole.recipe.but(**recipe), log_every=1, save_every=10, precision="fp32", **changes)


SIZES: dict[str, dict[str, Any]] = {"lenet5": {}, "resnet20_cifar": {"image_size": 16}}
RATES = {"lenet5": 0.001, "resnet20_cifar": 0.00003}


def train(out: str, changes: str, by_rank: str = "{}") -> None:
    """`changes` to the small run, and more for single ranks, as JSON."""
    asked = json.loads(changes) | json.loads(by_rank).get(os.environ.get("RANK", "0"), {})
    ca.train(run(asked.pop("network", "lenet5"), asked.pop("steps", 50), **asked), out=out, workers=0)


def losses(ranks: Ranks, network: str, synchronised: bool, micro_batch: int | None = None, steps: int = 50) -> list[float]:
    """Of `steps` steps in float64."""
    torch.manual_seed(0)
    side = 16 if network == "resnet20_cifar" else 32
    model = models.create_model(network, width=0.25, num_classes=10, in_chans=1, **SIZES[network])
    if synchronised:
        synchronise(model, ranks)
    split, geometry = open_dataset("digits").splits["train"], fit(1, (8, 8), (side, side))

    def loss(logits: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.cross_entropy(logits, targets, reduction="none")

    standardiser = PixelRange(low=0, high=1).measure(split.images, geometry)
    objective = Objective(model, standardiser, loss).double()  # type: ignore[arg-type]  # ours are in float32
    runtime = Runtime(CPU, "fp32", ranks=ranks)
    data = Training(split, geometry, (), 48, 0, None, ranks.rank, ranks.count)
    function, optimizer = runtime.prepared(objective), torch.optim.SGD(model.parameters(), RATES[network], momentum=0.9)
    found = []
    for step in range(steps):
        batch = data[step]
        assert not isinstance(batch, Exception)
        value, _ = gradients(function, data, batch, step, micro_batch, runtime, lambda loss, share: None)
        found.append(ranks.sum(value).item() / ranks.count)
        runtime.update(optimizer)
    return found


def batch_norm(ranks: Ranks, momentum: float | None, steps: int = 3) -> float:
    """The largest difference from torch's on the whole batch: forward, gradients, running statistics, evaluation."""
    torch.manual_seed(0)
    whole, worst = nn.BatchNorm2d(5, eps=1e-3, momentum=momentum).double(), 0.0
    nn.init.uniform_(whole.weight)
    nn.init.uniform_(whole.bias)
    ours = SynchronisedBatchNorm2d(copy.deepcopy(whole), ranks)
    for _ in range(steps):
        images, weights = torch.randn(2, 8, 5, 4, 3, dtype=torch.float64) * 3 + 1
        shares = images.chunk(ranks.count)
        own, all_ = shares[ranks.rank].clone().requires_grad_(), images.clone().requires_grad_()
        mine, theirs = ours(own), whole(all_)
        (mine.sin() * weights.chunk(ranks.count)[ranks.rank]).sum().backward()
        (theirs.sin() * weights).sum().backward()
        pairs = [(mine, theirs.chunk(ranks.count)[ranks.rank]), (own.grad, all_.grad.chunk(ranks.count)[ranks.rank])]
        pairs += [(ranks.sum(p.grad), q.grad) for p, q in zip(ours.parameters(), whole.parameters(), strict=True)]  # type: ignore[arg-type]
        pairs += list(zip(ours.buffers(), whole.buffers(), strict=True))
        worst = max([worst, *((a - b).abs().max().item() for a, b in pairs)])
        ours.zero_grad()
        whole.zero_grad()
    return max(worst, (ours.eval()(images) - whole.eval()(images)).abs().max().item())


def evaluation(ranks: Ranks, batch: int) -> bool:
    """Whether the answers of all ranks together are those of one, to the last bit."""
    torch.manual_seed(0)
    model = models.create_model("lenet5", width=0.25, num_classes=10, in_chans=1).eval()
    split, geometry = open_dataset("digits").splits["test"], fit(1, (8, 8), (32, 32))

    def ask(ranks: Ranks) -> Any:
        return answers(lambda x: model(x.float() / 255), Fixed(split, geometry, batch, ranks.rank, ranks.count), CPU, 0, ranks)

    one, all_ = ask(ALONE), ask(ranks)
    return all(bool((getattr(one, name) == getattr(all_, name)).all()) for name in ("logits", "labels", "indices"))


def numbers() -> None:
    with join() as ranks:
        torch.set_num_threads(1)
        found = {
            "any": ranks.any(ranks.rank, 7 - ranks.rank),
            "sum": ranks.sum(torch.tensor([1.5, ranks.rank])).tolist(),
            "gather": ranks.gather({"rank": ranks.rank}),
            "first": ranks.first(lambda: f"of {ranks.rank}"),
            "batch norm": [batch_norm(ranks, momentum) for momentum in (0.1, None)],
            "evaluation": [evaluation(ranks, batch) for batch in (50, 60, 250)],
            "plain": losses(ranks, "lenet5", False),
            "parts": losses(ranks, "lenet5", False, micro_batch=10),
            "synchronised": losses(ranks, "resnet20_cifar", True),
            "unsynchronised": losses(ranks, "resnet20_cifar", False, steps=3),
        }
    print(json.dumps(found))


if __name__ == "__main__":
    try:
        {"train": train, "numbers": numbers}[sys.argv[1]](*sys.argv[2:])
    except UserError as error:
        sys.exit(error.exit_code if isinstance(error, Said) else _fail(str(error), error.exit_code, False))
    except Stopped as stopped:
        sys.exit(_fail(str(stopped), stopped.exit_code, False))
