"""`bench train`: the speed of a training step, beside what a user would run otherwise. Each row runs in a
process of its own.

`baseline` is the loop of torchvision's documentation, on torchvision's network where it has one and is
installed, else on ours: fp32, channels first, the default allocator, a DataLoader over tensors, cross-entropy
(auxiliary heads weigh 0.3), torch's SGD. `baseline-tuned` is the same with our allocator settings, `bf16` the
latter in bf16 autocast and channels-last, `compiled` the latter compiled, and `timm-compiled` the latter with
timm's network. `ours` is a step of `train` by the quick recipe, with its augmentation, from the same tensors;
`ours-compiled` is compiled.
"""

import statistics
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from convatlas import analysis, models, recipes
from convatlas.benchmark.floor import training_floor
from convatlas.benchmark.harness import run_in_subprocess, run_interleaved
from convatlas.benchmark.peers import import_peer, timm_has, torchvision_has
from convatlas.data.dataset import ArrayImages, Split
from convatlas.data.loading.batch import SampleSource
from convatlas.data.loading.labeled_samples import LabeledSamples
from convatlas.data.loading.loader import iterate_batches
from convatlas.data.loading.masked_samples import MaskedSamples
from convatlas.data.loading.train_batches import TrainBatches
from convatlas.data.mask import ArrayMasks
from convatlas.data.transforms.preprocessing import fixed_size_preprocessing, tile_preprocessing
from convatlas.data.transforms.random_tile import RandomTile
from convatlas.errors import unknown_name
from convatlas.layers.fused_batch_norm import choose_kernels
from convatlas.runtime import hardware
from convatlas.runtime.compilation import can_compile
from convatlas.runtime.device import best_precision, select_device
from convatlas.runtime.memory import peak_memory_bytes, tune_malloc
from convatlas.runtime.runtime import Runtime
from convatlas.segmentation.task import class_target
from convatlas.training.objective import Objective, prepare_for_training
from convatlas.training.step import TrainStep

WARM_UP = 3  # steps
SECONDS = 6.0  # that a row is measured
MIN_TIMINGS, MAX_TIMINGS = 4, 60
STEPS_PER_TIMING = {"cpu": 1, "cuda": 10}  # a GPU is synchronised only after them
NUM_BATCHES = 4  # of images, which the rows use again and again
AUXILIARY_WEIGHT = 0.3
ROWS = ("baseline", "baseline-tuned", "bf16", "compiled", "timm-compiled", "ours", "ours-compiled")


def benchmark_training(
    model: str, batch: int | None, rounds: int | None, compile: bool, say: Callable[[str], None]
) -> dict[str, Any]:
    """The document of `bench train`: the rows in turn, as medians of `rounds`, with ratios to `baseline` and
    to `baseline-tuned`. `share` is the rate of the row's multiply-adds (three times a forward's), in
    percent of the device's largest measured matrix product; `floor` and the other shares are explained in
    floor.py, with values of 2 bytes where the device multiplies bf16, else of 4."""
    entry = models.get_entry(model)
    device = select_device()
    batch = default_batch(model, batch)
    left_out = [] if compile and can_compile(device) else [name for name in ROWS if "compiled" in name]
    if not left_out and not timm_has(model):
        left_out.append("timm-compiled")
    if best_precision(device) != "bf16":
        left_out.append("bf16")
        say("bf16 is left out: this device does not multiply it in hardware")
    names = [name for name in ROWS if name not in left_out]

    def measure(row: str) -> dict[str, float]:
        arguments = ("bench", "train", model, "--batch", str(batch), "--row", row)
        return run_in_subprocess(f"{model}, {row}", *arguments)

    rows = run_interleaved(names, rounds, measure, say)
    runtime = Runtime(device, best_precision(device))
    spec = hardware.measure_device(device, runtime.precision)
    with torch.device("meta"):
        report = analysis.analyze(models.create_model(model, _edition(model)), entry.input)
    value_bytes = 2 if runtime.precision == "bf16" else 4
    floor = training_floor(report, spec.flops[runtime.precision], spec.bandwidth, value_bytes)
    floor.add_shares(rows)
    return {
        "kind": "train",
        "model": model,
        "input": "x".join(map(str, entry.input)),
        "batch": batch,
        "rounds": max(row["rounds"] for row in rows),
        "baseline": "torchvision" if torchvision_has(model) else "our network in a plain loop",
        "peak_flops": floor.peak_flops,
        "bandwidth": floor.bandwidth,
        "floor": floor.document(batch),
        "machine": runtime.describe(),
        "rows": rows,
    }


def step_times(model: str, batch: int | None, seconds: float) -> dict[str, Any]:
    """The times at which training steps of ours ended, in seconds of the machine's clock."""
    tune_malloc()
    steps = _training_steps(model, batch, "ours")
    for _ in range(WARM_UP):
        next(steps)
    ends = [time.monotonic()]
    while ends[-1] < ends[0] + seconds:
        next(steps)
        ends.append(time.monotonic())
    return {"ends": ends}


def measure_row(model: str, batch: int | None, row: str) -> dict[str, float]:
    """Images per second and peak memory of one row, in this process."""
    if row not in ROWS:
        raise unknown_name("row", row, ROWS)
    if row != "baseline":
        tune_malloc()
    steps = _training_steps(model, batch, row)
    for _ in range(WARM_UP):
        next(steps)
    device = select_device()
    seconds_per_step: list[float] = []
    steps_per_timing = STEPS_PER_TIMING[device.type]
    hardware.synchronize(device)
    end = time.perf_counter() + SECONDS
    while len(seconds_per_step) < MIN_TIMINGS or (
        time.perf_counter() < end and len(seconds_per_step) < MAX_TIMINGS
    ):
        start = time.perf_counter()
        for _ in range(steps_per_timing):
            next(steps)
        hardware.synchronize(device)
        seconds_per_step.append((time.perf_counter() - start) / steps_per_timing)
    memory = torch.cuda.max_memory_allocated() if device.type == "cuda" else peak_memory_bytes()
    rate = default_batch(model, batch) / statistics.median(seconds_per_step)
    return {"images_per_second": rate, "memory_bytes": memory}


def default_batch(model: str, batch: int | None) -> int:
    """`batch`, or that of the recipe `quick`."""
    return batch or recipes.get_recipe("quick", models.get_entry(model)).batch


def _training_steps(model: str, batch: int | None, row: str) -> Iterator[None]:
    """The steps of a row, on random images."""
    entry = models.get_entry(model)
    recipe = recipes.get_recipe("quick", entry).replace(batch=default_batch(model, batch), micro_batch=None)
    generator = torch.Generator().manual_seed(0)
    shape = (recipe.batch * NUM_BATCHES, *entry.input)
    images = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    is_dense = entry.task == "segmentation"
    num_targets = (len(images), *entry.input[1:]) if is_dense else (len(images),)
    targets = torch.randint(2 if is_dense else 10, num_targets, generator=generator)
    if row.startswith("ours"):
        return _convatlas_steps(model, images, targets, recipe, "compiled" in row)
    return _plain_loop_steps(model, images, targets, recipe.batch, row)


def _edition(model: str) -> str:
    """The edition that makes our network the same as in the other rows."""
    return "torchvision" if torchvision_has(model) and "torchvision" in models.editions(model) else "paper"


def create_network(model: str, row: str) -> nn.Module:
    """The network of a row in another library's loop, with its default number of classes, and with its
    auxiliary heads if it has any."""
    if row.startswith("timm"):
        options = {"aux_logits": True} if model == "inception_v3" else {}
        network: nn.Module = import_peer("timm").create_model(model, **options)
    elif torchvision_has(model):
        # torchvision's initialisation of these two takes minutes
        options = {"init_weights": False} if model in ("googlenet", "inception_v3") else {}
        network = getattr(import_peer("torchvision.models"), model)(weights=None, **options)
    else:
        network = models.create_model(model)
    return network


def _plain_loop_steps(model: str, images: Tensor, targets: Tensor, batch: int, row: str) -> Iterator[None]:
    device = select_device()
    fast = row == "bf16" or "compiled" in row
    memory_format = torch.channels_last if fast else torch.preserve_format
    dataset = torch.utils.data.TensorDataset(images.float() / 255, targets)
    loader = torch.utils.data.DataLoader(dataset, batch_size=batch, shuffle=True)
    network = create_network(model, row).to(device).train()
    if fast:
        network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    forward = torch.compile(network) if "compiled" in row else network
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
    while True:
        for x, y in loader:
            x = x.to(device, memory_format=memory_format)
            y = y.to(device)
            with torch.autocast(device.type, torch.bfloat16, enabled=fast):
                logits, *head_logits = all_logits(forward(x))
                y = label_window(y, logits)
                loss = nn.functional.cross_entropy(logits, y)
                for head in head_logits:
                    loss = loss + AUXILIARY_WEIGHT * nn.functional.cross_entropy(head, y)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            loss.item()
            yield


def label_window(targets: Tensor, logits: Tensor) -> Tensor:
    """Of the classes of pixels (n, h, w) those in the middle that have logits (n, classes, rows, columns);
    labels (n,) themselves."""
    if targets.dim() == 1:
        return targets
    top, left = ((whole - part) // 2 for whole, part in zip(targets.shape[1:], logits.shape[2:], strict=True))
    return targets[:, top : top + logits.shape[2], left : left + logits.shape[3]]


def all_logits(output: Any) -> list[Tensor]:
    """The logits of a network in training, and then those of its auxiliary heads: torchvision's networks with
    heads return a named tuple, the others a tensor."""
    if isinstance(output, Tensor):
        return [output]
    return [logits for logits in output if logits is not None]


def _convatlas_steps(
    model: str, images: Tensor, targets: Tensor, recipe: recipes.Recipe, compile: bool
) -> Iterator[None]:
    device = select_device()
    network = models.create_model(model, _edition(model))
    kernels = None if compile else choose_kernels(network, device)
    runtime = Runtime(device, best_precision(device), compile)
    samples = _samples(network, images, targets)
    split, preprocessing = samples.split, samples.preprocessing
    auxiliary = recipe.auxiliary or dict.fromkeys(network.heads, AUXILIARY_WEIGHT)
    normalizer = recipe.normalize.fit(split.images, preprocessing)
    objective = Objective(network, normalizer, recipe.loss, auxiliary, recipe.ema)
    prepare_for_training(objective, runtime, kernels)
    optimizer = recipe.optimizer.build(objective.model)
    forward_backward = runtime.compiled_forward_backward(objective, partial(print, file=sys.stderr))
    batches = TrainBatches(samples, recipe.augment, recipe.batch, seed=0)
    train_step = TrainStep(objective, optimizer, runtime, recipe, batches, forward_backward)
    for step, batch in runtime.prefetch(iterate_batches(batches, 0, sys.maxsize)):
        train_step.prepare(step, recipe.optimizer.lr)
        loss, _ = train_step.backward(batch, step)
        train_step.update()
        if device.type == "cpu":
            loss.item()
        yield


def _samples(network: nn.Module, images: Tensor, targets: Tensor) -> SampleSource:
    """Images with labels, or as tiles with the classes of their pixels, in memory."""
    channels, height, width = images.shape[1:]
    pixels = ArrayImages(images.numpy())
    if targets.dim() == 1:
        preprocessing = fixed_size_preprocessing(channels, (height, width), (height, width))
        return LabeledSamples(Split(pixels, targets.numpy()), preprocessing)
    assert isinstance(network, models.Network)
    masks = ArrayMasks(targets.byte().numpy(), int(targets.max()) + 1)
    split = Split(pixels, np.zeros(len(images), np.int64), masks=masks)
    tiles = tile_preprocessing(channels, (height, width), network.margin, network.stride)
    return MaskedSamples(split, tiles, RandomTile(hflip=True), class_target)
