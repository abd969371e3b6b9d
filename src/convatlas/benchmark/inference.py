"""`bench inference`: images per second of a trained network, beside what a user would run otherwise. Each row
runs in a process of its own.

`baseline` is torchvision as its documentation shows it: eager, fp32, channels first, the default allocator;
where torchvision is not installed, our edition of its network run in that way. `baseline-tuned` is the same
with our allocator settings. `openvino-direct` is OpenVINO called by hand as its documentation shows: the
model converted, compiled for this batch, called. `int8` gets its ranges from random images: its speed does
not depend on them. Our rows take uint8 images and normalise them; the baselines take floats.

Rows without a remark classify batches of 32. `batch 1` is the latency of one image. `files` is a folder of
JPEGs of 500x375, from the disk to the probabilities: for the baselines a loop over the files as torchvision's
documentation shows it (`dataloader`: in batches of 32, two worker processes), for ours `predict`.

Where there is a CUDA device, it is measured instead, on batches of 256: `baseline-compiled` and
`timm-compiled` are torchvision's and timm's networks in our rows' precision, channels-last and compiled,
given floats that are on the device; our rows are given uint8 on the CPU.

Networks that label pixels take one image at a time. In `files` the baseline gives them each image whole, ours
is `predict`.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from convatlas import models
from convatlas.benchmark.data import write_photographs
from convatlas.benchmark.harness import add_share, run_in_subprocess, run_interleaved
from convatlas.benchmark.inference_rows import (
    BATCH,
    BATCH_ROWS,
    FILES_ROWS,
    create_network,
    labels_pixels,
    untrained_classifier,
)
from convatlas.benchmark.mask_rows import macs_of_file
from convatlas.benchmark.peers import timm_has, torchvision_has
from convatlas.errors import unknown_name
from convatlas.export import quantization
from convatlas.inference import onnx, openvino
from convatlas.runtime import hardware
from convatlas.runtime.compilation import can_compile
from convatlas.runtime.device import best_precision, select_device
from convatlas.runtime.memory import peak_memory_bytes, tune_malloc
from convatlas.runtime.runtime import Runtime

CUDA_BATCH = 256
NUM_FILES = 96  # of the folder: the slowest row classifies them once to warm up and once for the measurement
NUM_MASK_FILES = 2  # for networks that label pixels, which compute a hundred times as long
SECONDS = 4.0  # that a row is measured
# The rows by kind of work; the kind is the end of a row's name.
CPU_ROWS: dict[str, tuple[str, ...]] = {
    "": ("baseline", "baseline-tuned", "eager", "compile", "onnx", "openvino-direct", "auto", "int8"),
    ", batch 1": ("baseline", "baseline-tuned", "eager", "onnx", "openvino-direct", "auto", "int8"),
    ", files": ("baseline", "baseline-tuned", "dataloader", "auto"),
}
_CUDA_NAMES = ("baseline", "baseline-tuned", "baseline-compiled", "timm-compiled", "eager", "compile")
CUDA_ROWS: dict[str, tuple[str, ...]] = {"": _CUDA_NAMES, ", batch 1": _CUDA_NAMES}
# Of networks that label pixels, whose batch has one image
CPU_MASK_ROWS: dict[str, tuple[str, ...]] = {
    "": CPU_ROWS[""],
    ", files": ("baseline", "baseline-tuned", "auto"),
}
CUDA_MASK_ROWS: dict[str, tuple[str, ...]] = {"": ("baseline", "baseline-tuned", "eager", "compile")}


def benchmark_inference(
    model: str, rounds: int | None, compile: bool, say: Callable[[str], None]
) -> dict[str, Any]:
    """The document of `bench inference`: the rows in turn, `rounds` times, as medians, with ratios to the
    baselines of the same kind of work. `share` is the rate of the row's multiply-adds, in percent of the
    device's largest measured matrix product."""
    entry = models.get_entry(model)
    device = select_device()
    names_by_kind = _rows_for(device, model)
    missing = {
        name: _missing_requirement(name, model, compile) for names in names_by_kind.values() for name in names
    }
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        if ", files" in names_by_kind:
            write_photographs(Path(scratch))
        for kind, names in names_by_kind.items():
            available = [name for name in names if not missing[name]]
            rows += _measure_kind(model, kind, available, rounds, Path(scratch), say, rows)
            if any("stopped" in row for row in rows):
                break
    for name, requirement in missing.items():
        if requirement:
            say(f"{name} is left out: it needs {requirement}")
    runtime = Runtime(device, best_precision(device))
    peak = hardware.measure_device(device, runtime.precision).flops[runtime.precision]
    macs = models.golden_counts(model)["macs"]
    of_files = [row for row in rows if row["name"].endswith(", files")] if labels_pixels(model) else []
    add_share([row for row in rows if row not in of_files], 2 * macs, peak)
    if of_files:
        add_share(of_files, 2 * macs_of_file(untrained_classifier(model)), peak)
    return {
        "kind": "inference",
        "model": model,
        "input": "x".join(map(str, entry.input)),
        "batch": _batch_size(device, model),
        "rounds": max(row["rounds"] for row in rows),
        "baseline": "torchvision" if torchvision_has(model) else "our edition of it",
        "peak_flops": peak,
        "machine": runtime.describe(),
        "rows": rows,
    }


def _rows_for(device: torch.device, model: str) -> dict[str, tuple[str, ...]]:
    if labels_pixels(model):
        return CPU_MASK_ROWS if device.type == "cpu" else CUDA_MASK_ROWS
    return CPU_ROWS if device.type == "cpu" else CUDA_ROWS


def _batch_size(device: torch.device, model: str) -> int:
    if labels_pixels(model):
        return 1
    return BATCH if device.type == "cpu" else CUDA_BATCH


def _measure_kind(
    model: str,
    kind: str,
    names: list[str],
    rounds: int | None,
    scratch: Path,
    say: Callable[[str], None],
    earlier: list[dict[str, Any]],
) -> list[dict[str, Any]]:
    """The document's rows of one kind of work, a key of CPU_ROWS or CUDA_ROWS."""

    def measure(name: str) -> dict[str, float]:
        row = name + kind
        arguments = ("bench", "inference", model, "--row", row, "--photos", str(scratch))
        return run_in_subprocess(f"{model}, {row}", *arguments)

    rows = run_interleaved(names, rounds, measure, lambda line: say(f"{line}{kind}"), earlier)
    return [row | {"name": row["name"] + kind} for row in rows]


def measure_row(model: str, row: str, scratch: Path) -> dict[str, float]:
    """Images per second and peak memory of one row, in this process."""
    device = select_device()
    known = [name + kind for kind, names in _rows_for(device, model).items() for name in names]
    if row not in known:
        raise unknown_name("row", row, known)
    name, _, kind = row.partition(", ")
    if name not in ("baseline", "dataloader"):
        tune_malloc()
    torch.manual_seed(0)
    torch.set_grad_enabled(False)
    network = create_network(model)
    if kind == "files":
        num_files = NUM_MASK_FILES if labels_pixels(model) else NUM_FILES
        classify = FILES_ROWS[name](model, network, sorted(scratch.rglob("*.jpg"))[:num_files])
    else:
        generator = torch.Generator().manual_seed(0)
        shape = (1 if kind == "batch 1" else _batch_size(device, model), *models.get_entry(model).input)
        images = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
        classify_batch = BATCH_ROWS[name](model, network, images)

        def classify() -> int:
            return len(classify_batch())

    start = time.perf_counter()
    classify()
    first_seconds = time.perf_counter() - start
    for _ in range(2 if first_seconds < SECONDS / 4 else 0):
        classify()
    start = time.perf_counter()
    num_images = 0
    while (elapsed := time.perf_counter() - start) < SECONDS:
        num_images += classify()
    memory = torch.cuda.max_memory_allocated() if device.type == "cuda" else peak_memory_bytes()
    return {"images_per_second": num_images / elapsed, "memory_bytes": memory}


def _missing_requirement(name: str, model: str, compile: bool) -> str | None:
    """What a row needs and this machine or command does not have."""
    if name.startswith("timm") and not timm_has(model):
        return f"timm, and its {model}"
    if "compile" in name:
        if compile and can_compile(select_device()):
            return None
        return "a C++ compiler and --compile: it takes half a minute a round"
    requirements: dict[str, Callable[[], str | None]] = {
        "onnx": onnx.missing_requirement,
        "openvino-direct": openvino.missing_requirement,
        "int8": quantization.missing_requirement,
    }
    return requirements[name]() if name in requirements else None
