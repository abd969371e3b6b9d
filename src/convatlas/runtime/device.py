"""Devices: which one to use, and the precisions that its hardware multiplies."""

from pathlib import Path
from typing import Literal

import torch

from convatlas.errors import UsageError
from convatlas.runtime.distributed.ranks import SINGLE_PROCESS, Ranks

Precision = Literal["fp32", "tf32", "bf16"]


def cpu_matrix_features() -> tuple[str, ...]:
    """The matrix and vector units that matter and that this CPU reports, such as `amx_bf16`."""
    features = [
        "amx_bf16",
        "amx_int8",
        "avx512_bf16",
        "avx512_vnni",
        "avx512f",
        "avx2",
        "bf16",
        "i8mm",
        "asimd",
    ]
    flags = cpu_flags()
    return tuple(feature for feature in features if feature in flags)


def cpu_flags() -> tuple[str, ...]:
    """All extensions of the instruction set that this CPU reports; none where the system does not list
    them."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return tuple(next(line for line in lines if line.startswith(("flags", "Features"))).split()[2:])
    except (OSError, StopIteration):
        return ()


def select_device(name: str = "auto", ranks: Ranks = SINGLE_PROCESS) -> torch.device:
    """The device of this rank. `auto` is CUDA where available, else the CPU; with several ranks, each rank of
    a machine gets its own CUDA device.

    Raises UsageError for a device that does not exist or is not supported.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and ranks.world_size > 1:
        if ranks.local_world_size > torch.cuda.device_count():
            raise UsageError(
                f"{ranks.local_world_size} ranks on a machine where torch finds {torch.cuda.device_count()} "
                f"CUDA devices: start one rank per device, or use --device cpu"
            )
        name = f"cuda:{ranks.local_rank}"
    elif name.startswith("cuda:") and ranks.world_size > 1:
        raise UsageError(
            f"device {name!r} is a single device, for {ranks.world_size} ranks: use --device cuda, which "
            f"gives each rank its own"
        )
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"unknown device {name!r}: expected auto, cpu, cuda or cuda:N") from None
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"device {name!r} is not supported: expected auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(
            f"device {name!r} does not exist: torch finds {torch.cuda.device_count()} CUDA devices; use "
            f"--device cpu"
        )
    return device


def best_precision(device: torch.device) -> Precision:
    """bf16 where the device multiplies it in hardware, else fp32."""
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return "bf16" if any("bf16" in feature for feature in cpu_matrix_features()) else "fp32"
