"""Devices: which one to use, and what it multiplies in hardware."""

import os
from pathlib import Path
from typing import Literal

import torch

from convatlas.errors import UsageError
from convatlas.runtime.distributed.ranks import SINGLE_PROCESS, Ranks

Precision = Literal["fp32", "tf32", "bf16"]


def cpu_matrix_features() -> tuple[str, ...]:
    """The matrix units that this CPU reports and that matter here, such as `amx_bf16` or `avx512_bf16`."""
    known = ("amx_bf16", "amx_int8", "avx512_bf16", "avx512_vnni", "avx512f", "avx2", "bf16", "i8mm", "asimd")
    try:
        line = next(line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith(("flags", "Features")))
    except (OSError, StopIteration):
        return ()
    return tuple(unit for unit in known if unit in line.split())


def usable_cores() -> int:
    """The cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def select_device(name: str = "auto", ranks: Ranks = SINGLE_PROCESS) -> torch.device:
    """`auto` is the first CUDA device where there is one, else the CPU; of several ranks each has a CUDA device of its own.

    Raises UsageError for a device that is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and ranks.world_size > 1:
        if ranks.local_world_size > torch.cuda.device_count():
            raise UsageError(
                f"{ranks.local_world_size} ranks on a machine where torch sees {torch.cuda.device_count()} CUDA devices: start one for each device, "
                f"or use --device cpu"
            )
        name = f"cuda:{ranks.local_rank}"
    elif name.startswith("cuda:") and ranks.world_size > 1:
        raise UsageError(f"device {name!r} is one, for {ranks.world_size} ranks: use --device cuda, which gives each its own")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"unknown device {name!r}: expected auto, cpu, cuda or cuda:N") from None
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"device {name!r} is not supported: expected auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(f"device {name!r} is not here: this torch sees {torch.cuda.device_count()} CUDA devices; use --device cpu")
    return device


def best_precision(device: torch.device) -> Precision:
    """bf16 where the device multiplies it in hardware, else fp32."""
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return "bf16" if any("bf16" in unit for unit in cpu_matrix_features()) else "fp32"
