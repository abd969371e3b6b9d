"""`bench train`: what a training step costs here, beside what a user would run otherwise. Each row runs in a process of its own.

`baseline` is the loop of PyTorch's own tutorials, on our network: fp32, channels first, the allocator as it comes, a DataLoader over
tensors, cross-entropy, torch's SGD. `baseline-tuned` is the same loop with our allocator settings.
"""

import statistics
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from convatlas import models, recipes
from convatlas.data.dataset import Split, Stack
from convatlas.data.loader import Training, batches
from convatlas.data.preprocessing import fit
from convatlas.errors import unknown
from convatlas.optim.optimizers import set_lr
from convatlas.runtime.compilation import can_compile
from convatlas.runtime.device import Precision, Runtime, best_precision, pick_device
from convatlas.runtime.memory import keep_freed_memory, peak_memory_bytes
from convatlas.runtime.rounds import in_a_process, side_by_side
from convatlas.training.objective import Objective
from convatlas.training.step import gradients

WARM_UP, SECONDS, MOST_STEPS = 5, 6.0, 60
ROWS = ("baseline", "baseline-tuned", "fp32", "bf16", "compiled")


def training(model: str, rounds: int, compile: bool, say: Callable[[str], None]) -> dict[str, Any]:
    """The document of `bench train`: rows in turn, `rounds` times, medians; ratios to `baseline` and to `baseline-tuned`."""
    entry = models.find(model)
    device = pick_device()
    left_out = [] if compile and can_compile(device) else ["compiled"]
    if best_precision(device) != "bf16":
        left_out.append("bf16")
        say("bf16 is left out: this device does not multiply it in hardware")
    names = [name for name in ROWS if name not in left_out]
    rows = side_by_side(names, rounds, lambda row: in_a_process(f"{model}, {row}", "bench", "train", model, "--row", row), say)
    shape, batch = "x".join(map(str, entry.input)), recipes.find("quick", entry).batch
    machine = Runtime(device, best_precision(device)).describe()
    return {"kind": "train", "model": model, "input": shape, "batch": batch, "rounds": rounds, "machine": machine, "rows": rows}


def measure(model: str, row: str) -> dict[str, float]:
    """Images a second and peak memory of one row, in this process."""
    if row not in ROWS:
        raise unknown("row", row, ROWS)
    if row != "baseline":
        keep_freed_memory()
    entry = models.find(model)
    recipe = recipes.find("quick", entry)
    channels, height, width = entry.input
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (recipe.batch * 20, channels, height, width), generator=generator, dtype=torch.uint8)
    labels = torch.randint(0, 10, (len(images),), generator=generator)
    make = _baseline if row.startswith("baseline") else _ours
    steps = make(models.create_model(model, num_classes=10), images, labels, recipe, row)
    for _ in range(WARM_UP):
        next(steps)
    times: list[float] = []
    end = time.perf_counter() + SECONDS
    while len(times) < 10 or (time.perf_counter() < end and len(times) < MOST_STEPS):
        began = time.perf_counter()
        next(steps)
        times.append(time.perf_counter() - began)
    return {"images_per_second": recipe.batch / statistics.median(times), "memory_bytes": peak_memory_bytes()}


def _baseline(model: nn.Module, images: Tensor, labels: Tensor, recipe: recipes.Recipe, row: str) -> Iterator[None]:
    device = pick_device()
    dataset = torch.utils.data.TensorDataset(images.float() / 255, labels)
    loader = torch.utils.data.DataLoader(dataset, batch_size=recipe.batch, shuffle=True)
    model.to(device).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
    while True:
        for x, y in loader:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x.to(device)), y.to(device))
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            loss.item()
            yield


def _ours(model: models.Network, images: Tensor, labels: Tensor, recipe: recipes.Recipe, row: str) -> Iterator[None]:
    device = pick_device()
    precision: Precision = "fp32" if row == "fp32" else best_precision(device)
    runtime = Runtime(device, precision, compile=row == "compiled")
    split = Split(Stack(images.numpy()), labels.numpy())
    geometry = fit(images.shape[1], (images.shape[2], images.shape[3]), (images.shape[2], images.shape[3]))
    objective = Objective(model, recipe.standardise.measure(split.images, geometry), recipe.loss, recipe.auxiliary)
    runtime.place(objective)
    optimizer, function = recipe.optimizer.build(objective.model), runtime.prepared(objective)
    source = Training(split, geometry, recipe.augment, recipe.batch, seed=0)
    for step, batch in batches(source, 0, sys.maxsize):
        objective.train()
        objective.remember()
        runtime.seed(step)
        set_lr(optimizer, recipe.optimizer.lr)
        batch = batch._replace(images=batch.images.to(device), targets=batch.targets.to(device))
        loss, _ = gradients(function, source, batch, step, recipe.micro_batch, runtime, lambda loss, through: None)
        runtime.update(optimizer, recipe.clip)
        loss.item()
        yield
