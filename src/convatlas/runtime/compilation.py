"""Whether to compile: only when the estimated saving exceeds three times what compiling costs."""

import shutil

import torch

# By device type: the multiply-adds a second of an eager training step (three times a forward), the share of its time that compiling
# saves, and what compiling costs in seconds. Rough, from 2 cores with bf16 units and one data-centre GPU.
_RATE = {"cpu": 1.5e11, "cuda": 3e13}
_SAVED = {"cpu": 0.05, "cuda": 0.3}
_COST = {"cpu": 60.0, "cuda": 60.0}


def can_compile(device: torch.device) -> bool:
    """On a CPU, inductor needs a C++ compiler."""
    return device.type != "cpu" or any(shutil.which(name) for name in ("g++", "c++", "clang++"))


def worth_compiling(device: torch.device, macs: float) -> bool:
    """`macs` are those of the whole training, forward and backward."""
    return can_compile(device) and macs / _RATE[device.type] * _SAVED[device.type] > 3 * _COST[device.type]
