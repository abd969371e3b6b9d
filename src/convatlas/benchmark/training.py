"""`bench train`: what a training step costs here, beside what a user would run otherwise. Each row runs in a process of its own.

`baseline` is the loop that torchvision's documentation shows, on torchvision's network where it has one and is installed, else on ours:
fp32, channels first, the allocator as it comes, a DataLoader over tensors, cross-entropy (auxiliary heads weigh 0.3), torch's SGD.
`baseline-tuned` is the same with our allocator settings, `bf16` that in bf16 autocast and channels-last, `compiled` that compiled, and
`timm-compiled` that with timm's network. `ours` is a step of `train` by the quick recipe: with its augmentation, from the same tensors;
`ours-compiled` is compiled.
"""

import statistics
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from convatlas import analysis, models, recipes
from convatlas.benchmark.harness import run_in_subprocess, run_interleaved
from convatlas.benchmark.peers import import_peer, timm_has, torchvision_has
from convatlas.data.dataset import ArrayImages, Split
from convatlas.data.loading.loader import iterate_batches
from convatlas.data.loading.train_batches import TrainBatches
from convatlas.data.transforms.preprocessing import fixed_size_preprocessing
from convatlas.errors import unknown_name
from convatlas.optim.optimizers import set_lr
from convatlas.runtime import hardware
from convatlas.runtime.compilation import can_compile
from convatlas.runtime.device import best_precision, select_device
from convatlas.runtime.memory import peak_memory_bytes, tune_malloc
from convatlas.runtime.runtime import Runtime
from convatlas.training.objective import Objective
from convatlas.training.step import accumulate_gradients

WARM_UP, SECONDS, LEAST, MOST = 3, 6.0, 4, 60  # steps, seconds, times
TOGETHER = {"cpu": 1, "cuda": 10}  # steps that are timed as one: a GPU is waited for after them only
BATCHES = 4  # of images that the rows go through again and again
ROWS = ("baseline", "baseline-tuned", "bf16", "compiled", "timm-compiled", "ours", "ours-compiled")
AUXILIARY = 0.3


def benchmark_training(model: str, batch: int | None, rounds: int, compile: bool, say: Callable[[str], None]) -> dict[str, Any]:
    """The document of `bench train`: rows in turn, `rounds` times, medians; ratios to `baseline` and to `baseline-tuned`. `share` is that
    of the device's largest measured matrix product, in percent, which the row's multiply-adds take (three times a forward's)."""
    entry, device = models.get_entry(model), select_device()
    batch = batch or recipes.get_recipe("quick", entry).batch
    left_out = [] if compile and can_compile(device) else [name for name in ROWS if "compiled" in name]
    if not left_out and not timm_has(model):
        left_out.append("timm-compiled")
    if best_precision(device) != "bf16":
        left_out.append("bf16")
        say("bf16 is left out: this device does not multiply it in hardware")
    names = [name for name in ROWS if name not in left_out]

    def one(row: str) -> dict[str, float]:
        return run_in_subprocess(f"{model}, {row}", "bench", "train", model, "--batch", str(batch), "--row", row)

    rows = run_interleaved(names, rounds, one, say)
    runtime = Runtime(device, best_precision(device))
    peak = hardware.measure_device(device, runtime.precision).flops[runtime.precision]
    with torch.device("meta"):
        macs = analysis.analyze(models.create_model(model, _edition(model)), entry.input).macs
    for row in rows:
        row["share"] = 100 * row["images_per_second"] * 6 * macs / peak
    return {
        "kind": "train",
        "model": model,
        "input": "x".join(map(str, entry.input)),
        "batch": batch,
        "rounds": rounds,
        "baseline": "torchvision" if torchvision_has(model) else "our network in a plain loop",
        "peak_flops": peak,
        "machine": runtime.describe(),
        "rows": rows,
    }


def measure_row(model: str, batch: int | None, row: str) -> dict[str, float]:
    """Images a second and peak memory of one row, in this process."""
    if row not in ROWS:
        raise unknown_name("row", row, ROWS)
    if row != "baseline":
        tune_malloc()
    entry = models.get_entry(model)
    recipe = recipes.get_recipe("quick", entry)
    recipe = recipe.replace(batch=batch or recipe.batch, micro_batch=None)
    channels, height, width = entry.input
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (recipe.batch * BATCHES, channels, height, width), generator=generator, dtype=torch.uint8)
    labels = torch.randint(0, 10, (len(images),), generator=generator)
    if row.startswith("ours"):
        steps = _ours(model, images, labels, recipe, "compiled" in row)
    else:
        steps = _baseline(model, images, labels, recipe.batch, row)
    for _ in range(WARM_UP):
        next(steps)
    device, times = select_device(), list[float]()
    together = TOGETHER[device.type]
    hardware.synchronize(device)
    end = time.perf_counter() + SECONDS
    while len(times) < LEAST or (time.perf_counter() < end and len(times) < MOST):
        began = time.perf_counter()
        for _ in range(together):
            next(steps)
        hardware.synchronize(device)
        times.append((time.perf_counter() - began) / together)
    memory = torch.cuda.max_memory_allocated() if device.type == "cuda" else peak_memory_bytes()
    return {"images_per_second": recipe.batch / statistics.median(times), "memory_bytes": memory}


def _edition(model: str) -> str:
    """The same network in all rows."""
    return "torchvision" if torchvision_has(model) and "torchvision" in models.editions(model) else "paper"


def _network(model: str, row: str) -> nn.Module:
    """With the number of classes that it has by default, and auxiliary heads where it has such."""
    if row.startswith("timm"):
        found: nn.Module = import_peer("timm").create_model(model, **({"aux_logits": True} if model == "inception_v3" else {}))
        return found
    if not torchvision_has(model):
        return models.create_model(model)
    more = {"init_weights": False} if model in ("googlenet", "inception_v3") else {}  # theirs takes minutes
    found = getattr(import_peer("torchvision.models"), model)(weights=None, **more)
    return found


def _baseline(model: str, images: Tensor, labels: Tensor, batch: int, row: str) -> Iterator[None]:
    device, fast = select_device(), row == "bf16" or "compiled" in row
    dataset = torch.utils.data.TensorDataset(images.float() / 255, labels)
    loader = torch.utils.data.DataLoader(dataset, batch_size=batch, shuffle=True)
    network = _network(model, row).to(device).train()
    if fast:
        network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    function = torch.compile(network) if "compiled" in row else network
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
    while True:
        for x, y in loader:
            x, y = x.to(device, memory_format=torch.channels_last if fast else torch.preserve_format), y.to(device)
            with torch.autocast(device.type, torch.bfloat16, enabled=fast):
                logits, *heads = _outputs(function(x))
                loss = nn.functional.cross_entropy(logits, y)
                for head in heads:
                    loss = loss + AUXILIARY * nn.functional.cross_entropy(head, y)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            loss.item()
            yield


def _outputs(found: Any) -> list[Tensor]:
    """torchvision's networks with heads give a named tuple in training, the others the logits."""
    return [found] if isinstance(found, Tensor) else [output for output in found if output is not None]


def _ours(model: str, images: Tensor, labels: Tensor, recipe: recipes.Recipe, compile: bool) -> Iterator[None]:
    device = select_device()
    runtime = Runtime(device, best_precision(device), compile)
    split = Split(ArrayImages(images.numpy()), labels.numpy())
    geometry = fixed_size_preprocessing(images.shape[1], (images.shape[2], images.shape[3]), (images.shape[2], images.shape[3]))
    network = models.create_model(model, _edition(model))
    auxiliary = recipe.auxiliary or dict.fromkeys(network.heads, AUXILIARY)
    objective = Objective(network, recipe.standardise.fit(split.images, geometry), recipe.loss, auxiliary)
    runtime.to_device(objective)
    optimizer, function = (
        recipe.optimizer.build(objective.model),
        runtime.compiled_forward_backward(objective, partial(print, file=sys.stderr)),
    )
    source = TrainBatches(split, geometry, recipe.augment, recipe.batch, seed=0)
    for step, batch in runtime.prefetch(iterate_batches(source, 0, sys.maxsize)):
        objective.train()
        objective.snapshot_statistics()
        runtime.seed_step(step)
        set_lr(optimizer, recipe.optimizer.lr)
        loss, _ = accumulate_gradients(function, source, batch, step, recipe.micro_batch, lambda loss, through: None)
        runtime.optimizer_step(optimizer, recipe.clip)
        if device.type == "cpu":
            loss.item()
        yield
