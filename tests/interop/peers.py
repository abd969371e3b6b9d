"""The other libraries, from the folder `.peers` (`make peers`), which only these tests see."""

import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

FOLDER = Path(__file__).parents[2] / ".peers"
_declared: list[Any] = []


def peer(name: str) -> ModuleType:
    """torchvision, timm or pytorchcv; skips the test visibly where they are not installed."""
    if not (FOLDER / name).is_dir():
        pytest.skip(f"{name} is not in .peers: make peers")
    if not _declared:
        # The wheel's compiled operators do not load beside a CPU build of torch; declared, they let the Python part be imported.
        library = torch.library.Library("torchvision", "DEF")
        for operator in ("nms", "qnms"):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _declared.append(library)
        sys.path.append(str(FOLDER))
    return importlib.import_module(name)


def shake(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Random weights that keep activations near 1, and batch-norm statistics that are not the identity."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            with torch.no_grad():
                if parameter.dim() > 1:
                    fan_in = parameter[0].numel()
                    parameter.normal_(std=(2 / fan_in) ** 0.5, generator=generator)
                elif name == "weight":
                    parameter.uniform_(0.5, 1.0, generator=generator)
                else:
                    parameter.normal_(std=0.1, generator=generator)
        if isinstance(module, torch.nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(std=0.1, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
    return model
