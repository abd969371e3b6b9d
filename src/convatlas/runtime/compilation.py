"""Whether to compile: only when the estimated saving exceeds three times the cost of compiling."""

import shutil

import torch

from convatlas.runtime.device import cpu_matrix_features

# By kind of device: the multiply-adds per second of an eager training step (three times a forward), the share
# of its time that compiling saves, and the seconds that compiling costs. Rough values, from 2 cores with AMX
# units, 2 cores without them (ResNet-50 in bf16: 12.8 images per second eager, 12.5 compiled) and one
# data-centre GPU.
_MACS_PER_SECOND = {"cpu with amx": 1.5e11, "cpu": 1.5e11, "cuda": 3e13}
_SAVED_SHARE = {"cpu with amx": 0.05, "cpu": 0.0, "cuda": 0.3}
_COMPILE_SECONDS = {"cpu with amx": 60.0, "cpu": 60.0, "cuda": 60.0}


def can_compile(device: torch.device) -> bool:
    """Whether torch.compile works on the device: on a CPU, inductor needs a C++ compiler."""
    return device.type != "cpu" or any(shutil.which(name) for name in ("g++", "c++", "clang++"))


def should_compile(device: torch.device, macs: float) -> bool:
    """Whether compiling is worth its cost. `macs` are those of the whole training, forward and backward."""
    kind = "cpu with amx" if device.type == "cpu" and "amx_bf16" in cpu_matrix_features() else device.type
    saved_seconds = macs / _MACS_PER_SECOND[kind] * _SAVED_SHARE[kind]
    return can_compile(device) and saved_seconds > 3 * _COMPILE_SECONDS[kind]
