"""Whether to compile: only when the estimated saving exceeds three times what compiling costs."""

import shutil

import torch

from convatlas.runtime.device import cpu_matrix_features

# By kind of device: the multiply-adds a second of an eager training step (three times a forward), the share of its time that compiling
# saves, and what compiling costs in seconds. Rough, from 2 cores with AMX units, 2 cores without them (ResNet-50 in bf16: 12.8 images a
# second eager, 12.5 compiled) and one data-centre GPU.
_RATE = {"cpu with amx": 1.5e11, "cpu": 1.5e11, "cuda": 3e13}
_SAVED = {"cpu with amx": 0.05, "cpu": 0.0, "cuda": 0.3}
_COST = {"cpu with amx": 60.0, "cpu": 60.0, "cuda": 60.0}


def can_compile(device: torch.device) -> bool:
    """On a CPU, inductor needs a C++ compiler."""
    return device.type != "cpu" or any(shutil.which(name) for name in ("g++", "c++", "clang++"))


def should_compile(device: torch.device, macs: float) -> bool:
    """`macs` are those of the whole training, forward and backward."""
    kind = "cpu with amx" if device.type == "cpu" and "amx_bf16" in cpu_matrix_features() else device.type
    return can_compile(device) and macs / _RATE[kind] * _SAVED[kind] > 3 * _COST[kind]
